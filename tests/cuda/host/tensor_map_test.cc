#include "src/cuda/host/tensor_map.h"

#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

using testing::EngineTest;
using testing::error_of;
using testing::fake;

class TensorMapTest : public EngineTest {
 protected:
  // [batch, heads, length, head_dim] as it lies in memory, innermost first; a box of 64 rows.
  static TensorMapSpec attention_spec() {
    TensorMapSpec spec;
    spec.name = "K";
    spec.dtype = DataType::kBFloat16;
    spec.rank = 4;
    spec.dims = {64, 1000, 8, 2};
    spec.strides = {1, 64 * 8, 64, 64 * 8 * 1000};  // a transposed [batch, length, heads, head_dim]
    spec.box = {64, 64, 1, 1};
    return spec;
  }
  alignas(16) static inline char memory_[64];
};

TEST_F(TensorMapTest, the_driver_gets_what_the_spec_says) {
  const TensorMapData map = encode_tensor_map(attention_spec(), memory_);
  EXPECT_EQ(map.opaque[15], 0x5eedu);
  ASSERT_EQ(fake().tensor_maps.size(), 1u);
  const FakeTensorMap& seen = fake().tensor_maps[0];
  EXPECT_EQ(seen.data_type, 9);  // CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
  EXPECT_EQ(seen.rank, 4);
  EXPECT_EQ(seen.address, reinterpret_cast<uintptr_t>(memory_));
  EXPECT_EQ(seen.dims, (std::vector<uint64_t>{64, 1000, 8, 2}));
  EXPECT_EQ(seen.stride_bytes, (std::vector<uint64_t>{1024, 128, 1024000}));
  EXPECT_EQ(seen.box, (std::vector<uint32_t>{64, 64, 1, 1}));
  EXPECT_EQ(seen.element_strides, (std::vector<uint32_t>{1, 1, 1, 1}));
  EXPECT_EQ(seen.interleave, 0);
  EXPECT_EQ(seen.swizzle, 3);       // CU_TENSOR_MAP_SWIZZLE_128B
  EXPECT_EQ(seen.l2_promotion, 2);  // CU_TENSOR_MAP_L2_PROMOTION_L2_128B
  EXPECT_EQ(seen.fill, 0);
}

// A tensor's stride in a dimension of size 1 may be anything: torch keeps what a view left there.
TEST_F(TensorMapTest, strides_of_size_1_dimensions_become_legal_ones) {
  for (const int64_t stride : {int64_t{0}, int64_t{1}, int64_t{-7}, int64_t{3}, int64_t{1} << 60}) {
    for (const size_t dimension : {size_t{1}, size_t{2}, size_t{3}}) {
      fake().tensor_maps.clear();
      TensorMapSpec spec = attention_spec();
      spec.dims[dimension] = 1;
      spec.strides[dimension] = stride;
      EXPECT_EQ(tensor_map_problem(spec, memory_), "");
      encode_tensor_map(spec, memory_);
      ASSERT_EQ(fake().tensor_maps.size(), 1u);
      for (const uint64_t bytes : fake().tensor_maps[0].stride_bytes) {
        EXPECT_EQ(bytes % 16, 0u);
        EXPECT_GT(bytes, 0u);
        EXPECT_LT(bytes, uint64_t{1} << 40);
      }
    }
  }
}

TEST_F(TensorMapTest, each_broken_rule_is_a_sentence) {
  struct Case {
    void (*breakage)(TensorMapSpec&);
    const char* says;
  };
  const Case cases[] = {
      {[](TensorMapSpec& s) { s.rank = 0; }, "1 to 5 dimensions; got 0"},
      {[](TensorMapSpec& s) { s.rank = 6; }, "1 to 5 dimensions; got 6"},
      {[](TensorMapSpec& s) { s.dims[1] = 0; }, "dimension 1 must have 1 to 2^32 elements; got 0"},
      {[](TensorMapSpec& s) { s.dims[2] = (int64_t{1} << 32) + 1; }, "dimension 2 must have"},
      {[](TensorMapSpec& s) { s.strides[0] = 2; }, "dimension 0 must have stride 1; got 2"},
      {[](TensorMapSpec& s) { s.strides[1] = 65; },
       "dimension 1 must be a multiple of 16 bytes; got 130"},
      {[](TensorMapSpec& s) { s.strides[3] = 0; }, "broadcast dimension by size 1"},
      {[](TensorMapSpec& s) { s.strides[3] = -8; }, "must be positive"},
      {[](TensorMapSpec& s) { s.strides[3] = int64_t{1} << 39; }, "below 2^40 bytes"},
      {[](TensorMapSpec& s) { s.box[1] = 257; }, "1 to 256 elements in dimension 1; got 257"},
      {[](TensorMapSpec& s) { s.box[3] = 0; }, "dimension 3; got 0"},
      {[](TensorMapSpec& s) { s.box[0] = 4; }, "multiple of 16 bytes of dimension 0; got 8"},
      {[](TensorMapSpec& s) { s.box[0] = 128; }, "at most the swizzle's 128 bytes"},
      {[](TensorMapSpec& s) { s.swizzle = Swizzle::k64Bytes; }, "at most the swizzle's 64 bytes"},
  };
  for (const Case& broken : cases) {
    TensorMapSpec spec = attention_spec();
    broken.breakage(spec);
    const std::string message =
        error_of(ErrorKind::kValue, [&] { encode_tensor_map(spec, memory_); });
    EXPECT_NE(message.find(broken.says), std::string::npos) << message;
    EXPECT_NE(message.find("tensor map of K"), std::string::npos) << message;
  }
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 0);
}

TEST_F(TensorMapTest, addresses_are_checked) {
  EXPECT_NE(tensor_map_problem(attention_spec(), nullptr).find("null"), std::string::npos);
  EXPECT_NE(tensor_map_problem(attention_spec(), memory_ + 8).find("8 past"), std::string::npos);
}

TEST_F(TensorMapTest, the_drivers_refusal_names_the_tensor) {
  fake().failures_once["cuTensorMapEncodeTiled"] = 1;
  const std::string message =
      error_of(ErrorKind::kRuntime, [&] { encode_tensor_map(attention_spec(), memory_); });
  EXPECT_NE(message.find("CUDA_ERROR_INVALID_VALUE"), std::string::npos) << message;
  EXPECT_NE(message.find("tensor map of K"), std::string::npos) << message;
}

}  // namespace
}  // namespace bsk::cuda
