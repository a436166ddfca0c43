// The split kernel's own source, emulated with its clusters, against the fp64 reference.
#include <gtest/gtest.h>

#include <cstring>

#include "src/cuda/sm90/attention_forward_split/launch.h"
#include "tests/cuda/emulated_attention.h"

namespace bsk::sm90::attention_forward_split {
namespace {

using test::Case;
using test::emulated_gpu;

constexpr DataType kBf16 = DataType::kBFloat16;

int ctas_per_cluster(const AttentionProblem& problem, const AttentionPlan& plan) {
  const Packing packing = pack_rows(problem);
  const int64_t tiles = packing.head_tiles * packing.q_tiles * problem.kv_heads();
  return static_cast<int>(plan.tasks / (tiles * problem.batch()));
}

AttentionPlan run(const Case& c, const test::Tensors& tensors, emulation::Timing timing) {
  const AttentionProblem& problem = tensors.problem;
  const DeviceProperties device = emulated_gpu(c.multiprocessors);
  const auto against = reasons(problem, device);
  EXPECT_TRUE(against.empty()) << against[0];
  const AttentionPlan plan = make_plan(problem, device);
  const ConfigChoice choice = choose_config(problem);
  test::launch_emulated(choice.type_name(), make_params(problem, tensors.buffers, plan),
                        tensor_map_specs(problem, choice), tensors, plan, timing,
                        ctas_per_cluster(problem, plan), static_cast<int>(problem.kv_heads()));
  return plan;
}

// Emulated multiprocessors decide the splits: there is one for each CTA.
std::vector<Case> cases() {
  return {
      {.name = "decode_d64", .q_heads = 2, .kv_heads = 2, .q_len = 1, .kv_len = 1000},
      {.name = "decode_round_the_ring",
       .q_heads = 4,
       .q_len = 1,
       .kv_len = 2100,
       .head_dim = 128,
       .v_head_dim = 128,
       .multiprocessors = 1},
      {.name = "decode_d64_round_the_ring",
       .q_heads = 15,
       .q_len = 1,
       .kv_len = 2300,
       .multiprocessors = 2},
      {.name = "sixteen_splits_of_few_rows",
       .q_heads = 4,
       .q_len = 2,
       .kv_len = 4100,
       .multiprocessors = 32},
      {.name = "sixteen_rows_causal",
       .q_heads = 8,
       .kv_heads = 2,
       .q_len = 4,
       .kv_len = 700,
       .head_dim = 128,
       .v_head_dim = 128,
       .causal = Causal::kLowerRight,
       .multiprocessors = 24},
      {.name = "seventeen_rows", .q_heads = 17, .q_len = 1, .kv_len = 500},
      {.name = "few_rows_bf16",
       .dtype = kBf16,
       .q_heads = 4,
       .q_len = 3,
       .kv_len = 600,
       .head_dim = 128,
       .v_head_dim = 128},
      {.name = "few_rows_d256",
       .q_heads = 4,
       .kv_heads = 2,
       .q_len = 5,
       .kv_len = 700,
       .head_dim = 256,
       .v_head_dim = 256,
       .causal = Causal::kLowerRight,
       .multiprocessors = 24},
      {.name = "few_rows_window", .q_heads = 2, .q_len = 8, .kv_len = 900, .window_left = 200},
      {.name = "few_rows_upper_left",
       .q_heads = 2,
       .q_len = 8,
       .kv_len = 700,
       .causal = Causal::kUpperLeft,
       .multiprocessors = 24},
      {.name = "few_rows_bias_fp32",
       .q_heads = 2,
       .q_len = 7,
       .kv_len = 300,
       .softcap = 3.0,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat32,
       .mask_shape = {1, 2, 7, 300}},
      {.name = "decode_d128_group4",
       .q_heads = 8,
       .kv_heads = 2,
       .q_len = 1,
       .kv_len = 700,
       .head_dim = 128,
       .v_head_dim = 128,
       .multiprocessors = 4},
      {.name = "four_splits_round_the_ring",
       .q_len = 20,
       .kv_len = 2100,
       .head_dim = 128,
       .v_head_dim = 128,
       .multiprocessors = 4},
      {.name = "eight_splits", .q_heads = 2, .q_len = 30, .kv_len = 1500, .multiprocessors = 8},
      {.name = "sixteen_splits", .q_heads = 4, .q_len = 12, .kv_len = 2050, .multiprocessors = 16},
      {.name = "one_split",
       .q_heads = 3,
       .kv_heads = 3,
       .q_len = 2,
       .kv_len = 300,
       .multiprocessors = 1},
      {.name = "shortest", .q_len = 1, .kv_len = 257},
      {.name = "full_tile_causal", .q_len = 64, .kv_len = 600, .causal = Causal::kLowerRight},
      {.name = "two_tiles", .q_len = 100, .kv_len = 400, .causal = Causal::kLowerRight},
      {.name = "group3_two_tiles_causal",
       .batch = 2,
       .q_heads = 6,
       .kv_heads = 2,
       .q_len = 30,
       .kv_len = 333,
       .causal = Causal::kLowerRight},
      {.name = "group12_causal",
       .q_heads = 12,
       .q_len = 5,
       .kv_len = 500,
       .causal = Causal::kLowerRight},
      {.name = "group71_two_head_tiles", .q_heads = 71, .q_len = 1, .kv_len = 300},
      {.name = "group128",
       .q_heads = 128,
       .q_len = 1,
       .kv_len = 300,
       .causal = Causal::kLowerRight},
      {.name = "upper_left",
       .q_heads = 2,
       .q_len = 40,
       .kv_len = 700,
       .causal = Causal::kUpperLeft,
       .multiprocessors = 4},
      {.name = "window",
       .q_heads = 3,
       .q_len = 20,
       .kv_len = 900,
       .window_left = 200,
       .window_right = 3},
      {.name = "window_of_one",
       .q_heads = 2,
       .q_len = 31,
       .kv_len = 520,
       .window_left = 0,
       .window_right = 0},
      {.name = "repeated_batch",
       .batch = 2,
       .q_heads = 4,
       .kv_heads = 2,
       .q_len = 2,
       .kv_len = 300,
       .repeat_kv_batch = true},
      {.name = "bf16",
       .dtype = kBf16,
       .q_heads = 4,
       .q_len = 13,
       .kv_len = 600,
       .head_dim = 128,
       .v_head_dim = 128},
      {.name = "d40_v24",
       .q_heads = 2,
       .q_len = 9,
       .kv_len = 300,
       .head_dim = 40,
       .v_head_dim = 24},
      {.name = "d96_v80",
       .q_heads = 2,
       .q_len = 7,
       .kv_len = 500,
       .head_dim = 96,
       .v_head_dim = 80},
      {.name = "d192_v128",
       .dtype = kBf16,
       .q_heads = 2,
       .q_len = 9,
       .kv_len = 300,
       .head_dim = 192,
       .v_head_dim = 128},
      {.name = "d256",
       .q_heads = 2,
       .q_len = 40,
       .kv_len = 600,
       .head_dim = 256,
       .v_head_dim = 256,
       .causal = Causal::kLowerRight},
      {.name = "softcap", .q_heads = 4, .q_len = 9, .kv_len = 400, .softcap = 2.0},
      {.name = "few_rows_softcap", .q_heads = 4, .q_len = 3, .kv_len = 400, .softcap = 2.0},
      {.name = "negative_scale", .q_heads = 4, .q_len = 3, .kv_len = 400, .scale = -0.2},
      {.name = "huge_scale", .q_heads = 2, .q_len = 5, .kv_len = 600, .scale = 30.0},
      {.name = "scale_applied_first", .q_heads = 2, .q_len = 5, .kv_len = 600, .scale = 1000.0},
      {.name = "nan_query_of_many", .q_heads = 2, .q_len = 15, .kv_len = 600, .nan_query = true},
      {.name = "nan_query", .q_heads = 2, .q_len = 5, .kv_len = 600, .nan_query = true},
      {.name = "infinite_key_of_many",
       .q_heads = 2,
       .q_len = 15,
       .kv_len = 600,
       .infinite_key = true},
      {.name = "infinite_key", .q_heads = 2, .q_len = 5, .kv_len = 600, .infinite_key = true},
      {.name = "padding_mask",
       .batch = 2,
       .q_heads = 4,
       .kv_heads = 2,
       .q_len = 2,
       .kv_len = 410,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {2, 1, 1, 410}},
      {.name = "mask_of_heads_d128",
       .q_heads = 6,
       .kv_heads = 2,
       .q_len = 9,
       .kv_len = 300,
       .head_dim = 128,
       .v_head_dim = 128,
       .causal = Causal::kLowerRight,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 6, 9, 300}},
      {.name = "mask_of_heads_few_rows_d128",
       .q_heads = 6,
       .kv_heads = 2,
       .q_len = 3,
       .kv_len = 300,
       .head_dim = 128,
       .v_head_dim = 128,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 6, 3, 300}},
      {.name = "bias_few_rows",
       .q_heads = 6,
       .kv_heads = 2,
       .q_len = 5,
       .kv_len = 300,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 6, 5, 300}},
      {.name = "mask_of_two_head_tiles",
       .q_heads = 67,
       .q_len = 1,
       .kv_len = 300,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 67, 1, 300}},
      {.name = "bias_fp32_softcap",
       .q_heads = 2,
       .q_len = 40,
       .kv_len = 300,
       .softcap = 3.0,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat32,
       .mask_shape = {1, 1, 40, 300}},
  };
}

class EmulatedSplit : public ::testing::TestWithParam<Case> {};

TEST_P(EmulatedSplit, MatchesTheReference) {
  for (const emulation::Timing timing : emulation::kTimings) {
    test::Tensors tensors(GetParam());
    run(GetParam(), tensors, timing);
    if (HasFailure()) return;
    test::expect_matches(GetParam(), tensors);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedSplit, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(EmulatedSplitKernel, CoversEverySizeOfCluster) {
  std::vector<int> seen;
  for (const Case& c : cases()) {
    const test::Tensors tensors(c);
    seen.push_back(make_plan(tensors.problem, emulated_gpu(c.multiprocessors)).splits);
  }
  for (const int splits : {1, 2, 4, 8, 16}) {
    EXPECT_NE(std::find(seen.begin(), seen.end(), splits), seen.end()) << splits;
  }
}

// The mask leaves the first batch entry nothing: zeros and -inf, from every CTA of the cluster.
TEST(EmulatedSplitKernel, GivesZerosToRowsThatSeeNothing) {
  const Case c = {.name = "nothing",
                  .batch = 2,
                  .q_heads = 2,
                  .q_len = 3,
                  .kv_len = 600,
                  .mask_kind = MaskKind::kBool,
                  .mask_shape = {2, 1, 1, 600}};
  test::Tensors tensors(c);
  std::memset(const_cast<void*>(tensors.buffers.mask), 0, 600);
  run(c, tensors, emulation::kTimings[2]);
  test::expect_matches(c, tensors);
  EXPECT_EQ(tensors.buffers.lse[0], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(tensors.output()[0], 0);
}

// A row's bits do not depend on what shares the batch.
TEST(EmulatedSplitKernel, GivesTheSameBitsInAnyBatch) {
  const Case c = {.name = "bits",
                  .batch = 2,
                  .q_heads = 4,
                  .kv_heads = 2,
                  .q_len = 9,
                  .kv_len = 700,
                  .causal = Causal::kLowerRight,
                  .multiprocessors = 4};
  test::Tensors together(c), alone(c);
  for (TensorLayout* tensor :
       {&alone.problem.q, &alone.problem.k, &alone.problem.v, &alone.problem.out}) {
    tensor->shape[0] = 1;
  }
  const AttentionPlan plan = run(c, together, emulation::kTimings[0]);
  EXPECT_EQ(plan.splits, run(c, alone, emulation::kTimings[2]).splits);
  EXPECT_GT(plan.splits, 1);
  const auto rows = static_cast<size_t>(together.problem.out.stride[0]);
  const auto all = together.output(), first = alone.output();
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + rows, all.begin()));
}

// The batch changes how many CTAs compute a row's shares, not the shares.
class EmulatedSplitBits : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Queries, EmulatedSplitBits, ::testing::Values(2, 4));
TEST_P(EmulatedSplitBits, AreTheSameFromAnyCtas) {
  const Case alone = {.name = "alone",
                      .q_heads = 4,
                      .kv_heads = 2,
                      .q_len = GetParam(),
                      .kv_len = 2100,
                      .causal = Causal::kLowerRight,
                      .multiprocessors = 32};
  test::Tensors one(alone);
  EXPECT_EQ(ctas_per_cluster(one.problem, run(alone, one, emulation::kTimings[2])), 8);
  for (const auto& [batch, ctas] : {std::pair(4, 2), std::pair(9, 1), std::pair(40, 1)}) {
    Case together = alone;
    together.batch = batch;
    test::Tensors all(together);
    for (auto [to, from, bytes] :
         {std::tuple(all.buffers.q, one.buffers.q, one.problem.q.stride[0]),
          std::tuple(all.buffers.k, one.buffers.k, one.problem.k.stride[0]),
          std::tuple(all.buffers.v, one.buffers.v, one.problem.v.stride[0])}) {
      std::memcpy(const_cast<void*>(to), from, bytes * 2);
    }
    const AttentionPlan plan = run(together, all, emulation::kTimings[0]);
    EXPECT_EQ(plan.splits, 8);
    EXPECT_EQ(ctas_per_cluster(all.problem, plan), ctas) << batch;
    const auto rows = static_cast<size_t>(all.problem.out.stride[0]);
    const auto first = all.output(), expected = one.output();
    EXPECT_TRUE(std::equal(expected.begin(), expected.begin() + rows, first.begin())) << batch;
  }
}

// Keys that no query of the tile sees are neither loaded nor multiplied, and the rest is shared.
TEST(EmulatedSplitKernel, MultipliesVisibleKeysOnly) {
  const auto multiplies = [](const Case& c) {
    const test::Tensors tensors(c);
    run(c, tensors, emulation::kTimings[0]);
    return emulation::machine().multiplies_run + emulation::machine().warp_multiplies_run;
  };
  Case c = {.name = "visible", .q_len = 20, .kv_len = 1024};
  constexpr int64_t kPerTile = 64 / 16 + 128 / 16;
  EXPECT_EQ(multiplies(c), 8 * kPerTile);
  c.window_left = 200;
  EXPECT_EQ(multiplies(c), 2 * kPerTile);
  // A lane's, of products of 16 rows by 8 keys or columns.
  constexpr int64_t kPerTileOfLanes = (64 / 16 * (128 / 8) + 128 / 16 * (64 / 8)) * 32;
  Case few = {.name = "few", .q_len = 1, .kv_len = 1024};
  EXPECT_EQ(multiplies(few), 8 * kPerTileOfLanes);
  few.window_left = 200;
  EXPECT_EQ(multiplies(few), 2 * kPerTileOfLanes);
}

AttentionProblem decode(int64_t batch, int64_t q_heads, int64_t kv_heads, int64_t q_len,
                        int64_t kv_len, int64_t head_dim) {
  return dense_problem(DataType::kFloat16, batch, q_heads, kv_heads, q_len, kv_len, head_dim,
                       head_dim);
}

// A multiprocessor for each CTA, half of them at least.
TEST(SplitPlan, DividesKeysAmongClustersThatFindAPlace) {
  const auto division = [](const AttentionProblem& problem) {
    const AttentionPlan plan = make_plan(problem, emulated_gpu(132));
    return std::pair(plan.splits, ctas_per_cluster(problem, plan));
  };
  EXPECT_EQ(division(decode(1, 32, 8, 1, 8192 + 1, 128)), std::pair(8, 8));
  EXPECT_EQ(division(decode(1, 32, 8, 16, 8192 + 1, 128)), std::pair(8, 8));
  EXPECT_EQ(division(decode(1, 32, 4, 1, 8192, 128)), std::pair(16, 16));
  EXPECT_EQ(division(decode(1, 32, 32, 1, 8192, 128)), std::pair(2, 2));
  EXPECT_EQ(division(decode(1, 32, 32, 1, 1024, 128)), std::pair(4, 4));  // few keys
  EXPECT_EQ(division(decode(1, 16, 16, 1, 8192, 128)), std::pair(4, 4));
  EXPECT_EQ(division(decode(1, 16, 16, 1, 4096, 128)), std::pair(8, 8));
  EXPECT_EQ(division(decode(1, 40, 40, 1, 8192, 128)), std::pair(2, 2));
  EXPECT_EQ(division(decode(1, 300, 300, 1, 8192, 128)), std::pair(1, 1));
  EXPECT_EQ(division(decode(1, 8, 8, 1, 300, 64)), std::pair(2, 2));
  // A batch has enough tiles of queries to fill the GPU with fewer CTAs each.
  EXPECT_EQ(division(decode(2, 32, 8, 1, 8192, 128)), std::pair(8, 4));
  EXPECT_EQ(division(decode(8, 32, 8, 1, 8192, 128)), std::pair(8, 2));
  EXPECT_EQ(division(decode(64, 32, 8, 1, 8192, 128)), std::pair(8, 1));
  EXPECT_EQ(division(decode(3, 32, 8, 1, 2048, 128)), std::pair(8, 4));
  EXPECT_EQ(division(decode(2, 32, 8, 1, 2048, 128)), std::pair(8, 8));  // few keys
  EXPECT_EQ(division(decode(4, 32, 8, 1, 1024, 128)), std::pair(4, 4));
  EXPECT_EQ(division(decode(64, 32, 4, 1, 8192, 256)), std::pair(16, 4));  // room for parts
  EXPECT_EQ(division(decode(64, 32, 8, 16, 8192, 128)), std::pair(8, 8));  // of 64 rows
  EXPECT_EQ(make_plan(decode(64, 32, 8, 1, 8192, 128), emulated_gpu(132)).tasks, 64 * 8);
  EXPECT_EQ(make_plan(decode(0, 32, 8, 1, 8192, 128), emulated_gpu(132)).tasks, 0);
}

TEST(SplitPlan, PacksEveryPairOnce) {
  for (int64_t group = 1; group <= 130; ++group) {
    for (int64_t q_len = 1; q_len * group <= 130; ++q_len) {
      const Packing packing = pack_rows(decode(1, group, 1, q_len, 300, 64));
      EXPECT_LE(packing.heads * packing.queries, q_len * group <= 16 ? kFewRows : kManyRows);
      EXPECT_GE(packing.heads * packing.head_tiles, group);
      EXPECT_LT(packing.heads * (packing.head_tiles - 1), group);
      EXPECT_GE(packing.queries * packing.q_tiles, q_len);
      EXPECT_LT(packing.queries * (packing.q_tiles - 1), q_len);
    }
  }
}

TEST(SplitPlan, SaysWhyItCannot) {
  const auto against = [](const AttentionProblem& problem) {
    const auto found = reasons(problem, emulated_gpu(132));
    return found.size() == 1 ? found[0] : std::to_string(found.size()) + " reasons";
  };
  EXPECT_EQ(against(decode(1, 8, 8, 1, 257, 64)), "0 reasons");
  EXPECT_EQ(against(decode(1, 8, 2, 33, 1024, 64)),
            "needs at most 128 query rows per KV head (q_len * q_heads / kv_heads), not 132");
  EXPECT_EQ(against(decode(1, 8, 8, 1, 256, 64)), "needs more than 256 keys, not 256");
  AttentionProblem repeated = decode(1, 8, 2, 1, 1024, 64);
  repeated.q.stride[1] = 0;
  EXPECT_NE(against(repeated).find("heads of q that do not repeat"), std::string::npos);
  AttentionProblem blocks = decode(1, 8, 2, 1, 1024, 64);
  blocks.block_mask.present = true;
  EXPECT_EQ(against(blocks), "takes no block_mask");
}

// All Hopper kernels: a misaligned 16-byte store would be an error that the context does not
// survive.
TEST(SplitReasons, AnOutputThatIsNotAligned) {
  AttentionProblem problem = decode(1, 8, 2, 1, 1024, 64);
  problem.out.address_alignment = 8;
  const auto found = reasons(problem, emulated_gpu(132));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("out to start at a multiple of 16 bytes, not of 8"), std::string::npos);
}

}  // namespace
}  // namespace bsk::sm90::attention_forward_split
