// The builders of block masks over the fake driver: which launches, on which stream, and what
// happens where there is no machine code.
#include "src/cuda/sm90/block_mask_build/launch.h"
#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

namespace builder = sm90::block_mask_build;
using testing::EngineTest;
using testing::fake;

class BlockMaskBuildTest : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    places_ = testing::test_places();
    places_.kernel_dir = REAL_KERNEL_DIR;
    set_engine_places(places_);
    out_.batch = 2;
    out_.heads = 1;
    out_.q_blocks = 5;
    out_.kv_blocks = 70;
    out_.full_width = 70;
    out_.block_q = out_.block_k = 64;
    out_.q_len = 300;
    out_.kv_len = 64 * 70;
  }

  bool build(const builder::Source& source) {
    return builder::build(out_, source, 0, reinterpret_cast<void*>(uintptr_t{0x77}));
  }

  EnginePlaces places_;
  builder::Output out_;
};

TEST_F(BlockMaskBuildTest, one_launch_of_a_warp_a_row) {
  ASSERT_TRUE(build(builder::Dense{}));
  ASSERT_EQ(fake().launches.size(), 1u);
  EXPECT_EQ(fake().launches[0].kernel, "sm90_block_mask_build_dense");
  EXPECT_EQ(fake().launches[0].stream, 0x77u);
  EXPECT_EQ(fake().launches[0].grid[0], 3u);  // 10 rows, 4 a CTA
  EXPECT_EQ(fake().launches[0].block[0], 128u);
  EXPECT_EQ(fake().launches[0].shared_bytes, 0u);
}

TEST_F(BlockMaskBuildTest, bitmaps_are_in_shared_memory) {
  ASSERT_TRUE(build(builder::Lists{}));
  EXPECT_EQ(fake().launches.at(0).shared_bytes, 4u * 3 * 4);  // 4 rows of 70 bits in words
}

TEST_F(BlockMaskBuildTest, ids_are_summarised_first) {
  ASSERT_TRUE(build(builder::Ids{}));
  ASSERT_EQ(fake().launches.size(), 2u);
  EXPECT_EQ(fake().launches[0].kernel, "sm90_block_mask_build_id_ranges");
  EXPECT_EQ(fake().launches[0].grid[0], 38u);  // 2 * (5 + 70) blocks, 4 a CTA
  EXPECT_EQ(fake().launches[1].kernel, "sm90_block_mask_build_ids");
  EXPECT_EQ(fake().launches[1].grid[0], 10u);
}

TEST_F(BlockMaskBuildTest, the_size_of_a_row_chooses_the_kernel) {
  builder::Scores scores;
  for (const auto& [kv_blocks, name] :
       {std::pair{128, "top_k128"}, {129, "top_k512"}, {128, "top_k128"}}) {
    out_.kv_blocks = kv_blocks;
    ASSERT_TRUE(build(scores));
    EXPECT_EQ(fake().launches.back().kernel, std::string("sm90_block_mask_build_") + name);
  }
}

TEST_F(BlockMaskBuildTest, nothing_is_launched_for_no_rows) {
  out_.q_blocks = 0;
  EXPECT_TRUE(build(builder::Dense{}));
  EXPECT_TRUE(fake().launches.empty());
}

TEST_F(BlockMaskBuildTest, without_machine_code_torch_has_to_build_and_the_user_is_told) {
  places_.kernel_dir = cache_dir();  // holds no sources
  set_engine_places(places_);
  EXPECT_FALSE(build(builder::Strided{}));
  EXPECT_FALSE(build(builder::Strided{}));
  EXPECT_TRUE(fake().launches.empty());
  const std::vector<std::string> notices = take_engine_notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("Block masks are built by torch operations"), std::string::npos);
  EXPECT_NE(notices[0].find("BSK_PACK_KERNELS"), std::string::npos);

  places_.kernel_dir = "";  // a build without kernels is nothing to report
  set_engine_places(places_);
  EXPECT_FALSE(build(builder::Strided{}));
  EXPECT_TRUE(take_engine_notices().empty());

  places_.kernel_dir = REAL_KERNEL_DIR;
  set_engine_places(places_);
  EXPECT_TRUE(build(builder::Strided{}));
}

TEST_F(BlockMaskBuildTest, a_launch_that_fails_is_an_error) {
  ASSERT_TRUE(build(builder::Dense{}));
  fake().failures["cuLaunchKernelEx"] = 700;
  EXPECT_THROW(build(builder::Dense{}), Error);
}

TEST_F(BlockMaskBuildTest, pooled_scores_take_two_launches) {
  builder::PooledProductParams params;
  params.pool.batch = 2;
  params.pool.q_heads = params.heads = 4;
  params.pool.kv_heads = 2;
  params.pool.q_blocks = 33;
  params.pool.kv_blocks = 5;
  ASSERT_TRUE(builder::pooled_scores(params, 0, nullptr));
  ASSERT_EQ(fake().launches.size(), 2u);
  EXPECT_EQ(fake().launches[0].grid[0], 2u * (4 * 33 + 2 * 5));
  EXPECT_EQ(fake().launches[1].grid[0], 2u * 4 * 2 * 1);
}

}  // namespace
}  // namespace bsk::cuda
