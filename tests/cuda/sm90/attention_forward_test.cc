// The throughput kernel's own source, emulated, against the fp64 reference.
#include <gtest/gtest.h>

#include "src/cuda/sm90/attention_forward/launch.h"
#include "tests/cuda/emulated_attention.h"

namespace bsk::sm90::attention_forward {
namespace {

using test::Case;

DeviceProperties emulated_gpu(const Case& c) {
  DeviceProperties device;
  device.type = DeviceType::kCuda;
  device.name = "emulated";
  device.compute_capability = 90;
  device.multiprocessors = c.multiprocessors;
  device.shared_bytes = 227 * 1024;
  return device;
}

void run(const Case& c, const test::Tensors& tensors, emulation::Timing timing) {
  const AttentionProblem& problem = tensors.problem;
  const DeviceProperties device = emulated_gpu(c);
  const auto reasons_against = reasons(problem, device);
  ASSERT_TRUE(reasons_against.empty()) << reasons_against[0];
  const AttentionPlan made = make_plan(problem, device);
  const ConfigChoice choice = choose_config(problem, c.multiprocessors);
  Params params = make_params(problem, tensors.buffers, choice, made.splits);
  const auto specs = tensor_map_specs(problem, choice);
  params.q = test::encode_for_emulator(specs[0], tensors.buffers.q);
  params.k = test::encode_for_emulator(specs[1], tensors.buffers.k);
  params.v = test::encode_for_emulator(specs[2], tensors.buffers.v);
  if (specs.size() > 3) params.mask_map = test::encode_for_emulator(specs[3], tensors.buffers.mask);
  if (specs.size() > 4) {
    params.whole_groups_map = test::encode_for_emulator(specs[4], tensors.buffers.mask);
  }
  const test::EmulatedEntry& entry = test::emulated_kernel(choice.type_name());
  emulation::machine().launch(static_cast<int>(made.tasks), made.threads,
                              static_cast<int>(made.shared_bytes), timing, [&] { entry(&params); });
}

constexpr DataType kBf16 = DataType::kBFloat16;

// Small problems through every path, under every timing.
std::vector<Case> smoke_cases() {
  return {
      {.name = "d64", .q_len = 192, .kv_len = 256},
      {.name = "d128", .q_len = 128, .kv_len = 384, .head_dim = 128, .v_head_dim = 128},
      {.name = "d128_bf16_ragged_causal_gqa",
       .dtype = kBf16,
       .q_heads = 2,
       .q_len = 200,
       .kv_len = 200,
       .head_dim = 128,
       .v_head_dim = 128,
       .causal = Causal::kUpperLeft},
      {.name = "d64_persistent",
       .batch = 2,
       .q_heads = 2,
       .kv_heads = 2,
       .q_len = 200,
       .kv_len = 300,
       .causal = Causal::kLowerRight},
      {.name = "block64",
       .q_heads = 2,
       .kv_heads = 2,
       .q_len = 200,
       .kv_len = 330,
       .block_q = 64,
       .block_k = 64,
       .mask_heads = 2},
      {.name = "block128", .q_len = 300, .kv_len = 600, .block_q = 128, .block_k = 128},
      // More tiles than the ring has stages.
      {.name = "d128_laps", .q_len = 128, .kv_len = 1300, .head_dim = 128, .v_head_dim = 128},
      {.name = "d64_laps", .q_len = 130, .kv_len = 1300, .causal = Causal::kLowerRight},
      {.name = "block64_laps",
       .q_len = 64,
       .kv_len = 1900,
       .head_dim = 128,
       .v_head_dim = 128,
       .block_q = 64,
       .block_k = 64},
      {.name = "bool_mask",
       .q_len = 130,
       .kv_len = 140,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 130, 140}},
      // Scores so far apart that maxima of the first tile do not do for the later ones.
      {.name = "d64_far_apart",
       .q_heads = 2,
       .kv_heads = 2,
       .q_len = 200,
       .kv_len = 600,
       .scale = 4.0},
      {.name = "d128_far_apart",
       .dtype = kBf16,
       .q_len = 150,
       .kv_len = 400,
       .head_dim = 128,
       .v_head_dim = 128,
       .causal = Causal::kLowerRight,
       .scale = 16.0},
      // By the copy engine, and more tiles than the masks' ring has stages.
      {.name = "bool_mask_copied",
       .q_len = 130,
       .kv_len = 720,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 130, 720}},
      {.name = "bias_copied",
       .q_heads = 2,
       .q_len = 130,
       .kv_len = 520,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 2, 130, 520}},
      // Tiles that the mask empties, a task without tiles, and one with more than the ring holds.
      {.name = "key_mask",
       .batch = 3,
       .q_len = 200,
       .kv_len = 1300,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {3, 1, 1, 1300},
       .kept = {300, 0, 1299}},
      // Computed again, because the maxima of the keys seen in the first tile do not do.
      {.name = "key_mask_far_apart",
       .batch = 2,
       .q_len = 200,
       .kv_len = 600,
       .scale = 4.0,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {2, 1, 1, 600}},
      {.name = "key_mask_d128_far_apart",
       .dtype = kBf16,
       .q_len = 150,
       .kv_len = 600,
       .head_dim = 128,
       .v_head_dim = 128,
       .causal = Causal::kLowerRight,
       .scale = 16.0,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 1, 600}},
  };
}

// Edges; the timing changes from case to case.
std::vector<Case> edge_cases() {
  std::vector<Case> list = {
      {.name = "no_keys", .q_len = 70, .kv_len = 0},
      {.name = "one_pair", .q_len = 1, .kv_len = 1},
      {.name = "one_query", .q_len = 1, .kv_len = 257},
      {.name = "one_key", .q_len = 65, .kv_len = 1},
      {.name = "d128_ragged", .q_len = 129, .kv_len = 127, .head_dim = 128, .v_head_dim = 128},
      {.name = "d8", .q_len = 33, .kv_len = 47, .head_dim = 8, .v_head_dim = 16},
      {.name = "d40_v56", .q_len = 80, .kv_len = 150, .head_dim = 40, .v_head_dim = 56},
      {.name = "d80", .q_len = 80, .kv_len = 150, .head_dim = 80, .v_head_dim = 80},
      {.name = "d128_v64", .q_len = 80, .kv_len = 150, .head_dim = 128, .v_head_dim = 64},
      {.name = "d192_v128",
       .dtype = kBf16,
       .q_len = 80,
       .kv_len = 300,
       .head_dim = 192,
       .v_head_dim = 128},
      {.name = "d192", .q_len = 130, .kv_len = 200, .head_dim = 192, .v_head_dim = 192},
      {.name = "d256",
       .q_len = 130,
       .kv_len = 200,
       .head_dim = 256,
       .v_head_dim = 256,
       .causal = Causal::kLowerRight},
      {.name = "upper_left_wide", .q_len = 70, .kv_len = 500, .causal = Causal::kUpperLeft},
      {.name = "upper_left_tall", .q_len = 500, .kv_len = 70, .causal = Causal::kUpperLeft},
      {.name = "lower_right_wide", .q_len = 70, .kv_len = 500, .causal = Causal::kLowerRight},
      {.name = "lower_right_tall", .q_len = 500, .kv_len = 70, .causal = Causal::kLowerRight},
      {.name = "window", .q_len = 400, .kv_len = 400, .window_left = 40, .window_right = 17},
      {.name = "window_causal",
       .q_len = 300,
       .kv_len = 400,
       .causal = Causal::kLowerRight,
       .window_left = 63},
      {.name = "window_of_one", .q_len = 100, .kv_len = 100, .window_left = 0, .window_right = 0},
      {.name = "window_huge",
       .q_len = 100,
       .kv_len = 100,
       .window_left = int64_t{1} << 40,
       .window_right = int64_t{1} << 40},
      {.name = "gqa4_batch", .batch = 2, .q_heads = 8, .kv_heads = 2, .q_len = 70, .kv_len = 90},
      {.name = "repeated_batch", .batch = 2, .q_len = 70, .kv_len = 90, .repeat_kv_batch = true},
      {.name = "softcap", .q_len = 100, .kv_len = 150, .softcap = 2.0},
      {.name = "softcap_causal_window",
       .q_len = 150,
       .kv_len = 150,
       .causal = Causal::kUpperLeft,
       .window_left = 70,
       .scale = 0.5,
       .softcap = 5.0},
      {.name = "negative_scale", .q_len = 70, .kv_len = 150, .scale = -0.2},
      {.name = "zero_scale", .q_len = 70, .kv_len = 150, .scale = test::kZeroScale},
      {.name = "huge_scale", .q_len = 70, .kv_len = 300, .scale = 30.0},
      {.name = "nan_query", .q_len = 70, .kv_len = 300, .nan_query = true},
      {.name = "infinite_key", .q_len = 70, .kv_len = 300, .infinite_key = true},
      {.name = "padding_mask",
       .batch = 2,
       .q_heads = 2,
       .q_len = 70,
       .kv_len = 150,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {2, 1, 1, 150}},
      {.name = "bias_fp16",
       .q_heads = 2,
       .q_len = 70,
       .kv_len = 150,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 2, 70, 150}},
      {.name = "bias_fp32_causal_softcap",
       .q_len = 70,
       .kv_len = 150,
       .causal = Causal::kLowerRight,
       .softcap = 3.0,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat32,
       .mask_shape = {1, 1, 70, 150}},
      {.name = "key_mask_causal",
       .batch = 2,
       .q_len = 300,
       .kv_len = 500,
       .causal = Causal::kLowerRight,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {2, 1, 1, 500},
       .kept = {128, 257}},
      {.name = "key_mask_d128",
       .q_heads = 2,
       .kv_heads = 1,
       .q_len = 130,
       .kv_len = 2100,
       .head_dim = 128,
       .v_head_dim = 128,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 2, 1, 2100},
       .mask_shift = 3},
      {.name = "key_mask_expanded_softcap",
       .batch = 2,
       .q_len = 100,
       .kv_len = 150,
       .softcap = 5.0,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {2, 1, 1, 150},
       .mask_expanded = true},
      {.name = "key_mask_infinite_key",
       .q_len = 70,
       .kv_len = 300,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 1, 300},
       .kept = {150},
       .infinite_key = true},
      {.name = "one_column",
       .q_len = 70,
       .kv_len = 150,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 70, 1}},
      {.name = "bool_mask_transposed",
       .q_len = 80,
       .kv_len = 160,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 80, 160},
       .mask_transposed = true},
      {.name = "bias_shifted",
       .q_len = 70,
       .kv_len = 160,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 70, 160},
       .mask_shift = 1},
      // In groups of rows: with and without a rest, of several heads and batch entries, rows apart,
      // fewer rows than a group, one row a tile; and what cannot be grouped.
      {.name = "bool_mask_groups_softcap",
       .batch = 2,
       .q_heads = 3,
       .q_len = 201,
       .kv_len = 301,
       .softcap = 4.0,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {2, 3, 201, 301}},
      {.name = "bool_mask_whole_groups",
       .q_len = 160,
       .kv_len = 777,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 160, 777}},
      {.name = "bias_groups",
       .batch = 2,
       .q_heads = 2,
       .q_len = 203,
       .kv_len = 517,
       .causal = Causal::kLowerRight,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {2, 1, 203, 517},
       .mask_expanded = true},
      {.name = "bias_groups_bf16_d128",
       .dtype = kBf16,
       .batch = 2,
       .q_heads = 2,
       .q_len = 131,
       .kv_len = 259,
       .head_dim = 128,
       .v_head_dim = 128,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = kBf16,
       .mask_shape = {1, 2, 131, 259},
       .mask_gap = 4},
      {.name = "bias_groups_fp32",
       .q_heads = 2,
       .q_len = 70,
       .kv_len = 151,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat32,
       .mask_shape = {1, 2, 70, 151}},
      {.name = "bias_groups_d256",
       .q_len = 130,
       .kv_len = 201,
       .head_dim = 256,
       .v_head_dim = 256,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 130, 201}},
      {.name = "bias_of_few_rows",
       .q_len = 5,
       .kv_len = 201,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 5, 201}},
      {.name = "bias_of_one_row",
       .q_heads = 2,
       .q_len = 70,
       .kv_len = 201,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 1, 201}},
      {.name = "bias_groups_block64x16",
       .q_len = 70,
       .kv_len = 301,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 70, 301},
       .block_q = 64,
       .block_k = 16},
      {.name = "bool_mask_groups_block64x16",
       .q_len = 70,
       .kv_len = 301,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 70, 301},
       .block_q = 64,
       .block_k = 16},
      {.name = "bias_of_keys",
       .batch = 2,
       .q_len = 70,
       .kv_len = 304,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {2, 1, 1, 304}},
      {.name = "bias_of_keys_ragged_negative_scale",
       .batch = 2,
       .q_len = 70,
       .kv_len = 301,
       .scale = -0.2,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {2, 1, 1, 301}},
      {.name = "bias_fp32_copied",
       .batch = 2,
       .q_heads = 2,
       .q_len = 150,
       .kv_len = 300,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat32,
       .mask_shape = {2, 1, 150, 300},
       .mask_expanded = true},
      {.name = "bias_d128_bf16_causal",
       .dtype = kBf16,
       .q_len = 130,
       .kv_len = 400,
       .head_dim = 128,
       .v_head_dim = 128,
       .causal = Causal::kLowerRight,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = kBf16,
       .mask_shape = {1, 1, 130, 400}},
      {.name = "bias_d256",
       .q_len = 130,
       .kv_len = 200,
       .head_dim = 256,
       .v_head_dim = 256,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 130, 200}},
      {.name = "block64_bias",
       .q_len = 130,
       .kv_len = 600,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 130, 600},
       .block_q = 64,
       .block_k = 64},
      {.name = "block64x16_bias",
       .q_len = 70,
       .kv_len = 304,
       .mask_kind = MaskKind::kAdditive,
       .mask_dtype = DataType::kFloat16,
       .mask_shape = {1, 1, 70, 304},
       .block_q = 64,
       .block_k = 16},
      {.name = "block64_bool_mask_copied",
       .q_len = 70,
       .kv_len = 608,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 70, 608},
       .block_q = 64,
       .block_k = 64},
      {.name = "block64_key_mask",
       .batch = 2,
       .q_len = 130,
       .kv_len = 800,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {2, 1, 1, 800},
       .kept = {300, 777},
       .block_q = 64,
       .block_k = 64},
      {.name = "block64x16_key_mask",
       .q_len = 70,
       .kv_len = 304,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 1, 304},
       .block_q = 64,
       .block_k = 16},
      {.name = "block128x16_key_mask_softcap",
       .dtype = kBf16,
       .q_len = 130,
       .kv_len = 304,
       .softcap = 15.0,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 1, 304},
       .block_q = 128,
       .block_k = 16},
      {.name = "block64_d128_causal",
       .q_len = 300,
       .kv_len = 300,
       .head_dim = 128,
       .v_head_dim = 128,
       .causal = Causal::kUpperLeft,
       .block_q = 64,
       .block_k = 64},
      {.name = "block128_causal_window",
       .q_len = 300,
       .kv_len = 500,
       .causal = Causal::kLowerRight,
       .window_left = 200,
       .block_q = 128,
       .block_k = 128},
      {.name = "block_128x64", .q_len = 200, .kv_len = 400, .block_q = 128, .block_k = 64},
      {.name = "block_64x128", .q_len = 200, .kv_len = 400, .block_q = 64, .block_k = 128},
      {.name = "block_64x16", .q_len = 100, .kv_len = 333, .block_q = 64, .block_k = 16},
      {.name = "block_64x32", .q_len = 100, .kv_len = 333, .block_q = 64, .block_k = 32},
      {.name = "block64_empty",
       .q_len = 200,
       .kv_len = 300,
       .block_q = 64,
       .block_k = 64,
       .full_density = 0.0,
       .partial_density = 0.08},
      {.name = "block64_all_full",
       .q_len = 200,
       .kv_len = 300,
       .block_q = 64,
       .block_k = 64,
       .full_density = 1.0},
      {.name = "block64_gqa",
       .batch = 2,
       .q_heads = 4,
       .kv_heads = 2,
       .q_len = 130,
       .kv_len = 200,
       .block_q = 64,
       .block_k = 64,
       .mask_heads = 2},
      {.name = "block64_d256",
       .q_len = 130,
       .kv_len = 300,
       .head_dim = 256,
       .v_head_dim = 256,
       .block_q = 64,
       .block_k = 64},
      {.name = "block64_bool_mask",
       .q_len = 130,
       .kv_len = 200,
       .mask_kind = MaskKind::kBool,
       .mask_shape = {1, 1, 130, 200},
       .block_q = 64,
       .block_k = 64},
  };
  for (const int length : {63, 64, 65, 127, 128, 191, 193, 257}) {
    list.push_back({.name = "square" + std::to_string(length),
                    .q_len = length,
                    .kv_len = length,
                    .causal = length % 2 ? Causal::kUpperLeft : Causal::kNone});
  }
  return list;
}

class Emulated : public ::testing::TestWithParam<Case> {};

TEST_P(Emulated, MatchesTheReference) {
  for (const emulation::Timing timing : emulation::kTimings) {
    test::Tensors tensors(GetParam());
    run(GetParam(), tensors, timing);
    if (HasFatalFailure()) return;
    test::expect_matches(GetParam(), tensors);
  }
}

INSTANTIATE_TEST_SUITE_P(Smoke, Emulated, ::testing::ValuesIn(smoke_cases()),
                         [](const auto& info) { return info.param.name; });

// Masks whose rows begin anywhere between two boundaries of 16 bytes: in groups of rows, or element
// by element where the first row does not begin at one either.
std::vector<Case> misaligned_masks() {
  std::vector<Case> cases;
  const auto add = [&](const std::string& name, DataType dtype, DataType mask_dtype, int64_t kv_len,
                       int64_t shift) -> Case& {
    Case& c = cases.emplace_back();
    c.name = name + "_" + std::to_string(kv_len) + "_shifted_" + std::to_string(shift);
    c.dtype = dtype;
    c.q_heads = 2;
    c.q_len = 70;
    c.kv_len = kv_len;
    c.mask_kind = mask_dtype == DataType::kBool ? MaskKind::kBool : MaskKind::kAdditive;
    c.mask_dtype = mask_dtype;
    c.mask_shape = {1, 2, 70, kv_len};
    c.mask_shift = shift;
    return c;
  };
  for (const int64_t kv_len : {129, 130, 132, 136, 390}) {
    for (const int64_t shift : {0, 1}) {
      Case& bias = add("bias_bf16", kBf16, kBf16, kv_len, shift);
      bias.head_dim = bias.v_head_dim = 128;
      add("bias_fp32", DataType::kFloat16, DataType::kFloat32, kv_len, shift);
      add("bool", DataType::kFloat16, DataType::kBool, kv_len, 2 * shift + 1);
      Case& blocks = add("bias_block16", DataType::kFloat16, DataType::kFloat16, kv_len, shift);
      blocks.block_q = 64;
      blocks.block_k = 16;
      Case& bool_blocks = add("bool_block64", DataType::kFloat16, DataType::kBool, kv_len, shift);
      bool_blocks.block_q = bool_blocks.block_k = 64;
      Case& keys = add("bias_of_keys", DataType::kFloat16, DataType::kFloat16, kv_len, shift);
      keys.mask_shape[2] = 1;
    }
  }
  // Less than 16 bytes.
  for (const int64_t shift : {0, 1}) {
    add("bias_tiny", DataType::kFloat16, DataType::kFloat16, 7, shift).mask_shape = {1, 1, 1, 7};
  }
  return cases;
}

class EmulatedEdge : public ::testing::TestWithParam<Case> {};

TEST_P(EmulatedEdge, MatchesTheReference) {
  const size_t timing = GetParam().name.size() % std::size(emulation::kTimings);
  test::Tensors tensors(GetParam());
  run(GetParam(), tensors, emulation::kTimings[timing]);
  if (HasFatalFailure()) return;
  test::expect_matches(GetParam(), tensors);
}

INSTANTIATE_TEST_SUITE_P(Edge, EmulatedEdge, ::testing::ValuesIn(edge_cases()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(MisalignedMask, EmulatedEdge, ::testing::ValuesIn(misaligned_masks()),
                         [](const auto& info) { return info.param.name; });

// A row's bits depend neither on what shares the batch nor on which CTA computes it, nor on whether
// another row of its tile makes the tile be computed again.
class EmulatedBits : public ::testing::TestWithParam<Case> {};

TEST_P(EmulatedBits, AreTheSameInAnyBatchAndGrid) {
  const Case& together = GetParam();
  Case other_grid = together;
  other_grid.multiprocessors = 5;
  test::Tensors a(together), b(together), alone(together);
  run(together, a, emulation::kTimings[0]);
  run(other_grid, b, emulation::kTimings[2]);
  EXPECT_EQ(a.output(), b.output());
  for (TensorLayout* tensor : {&alone.problem.q, &alone.problem.k, &alone.problem.v,
                               &alone.problem.out, &alone.problem.mask}) {
    tensor->shape[0] = 1;
  }
  run(together, alone, emulation::kTimings[0]);
  const auto rows = static_cast<size_t>(a.problem.out.stride[0]);
  const auto all = a.output(), first = alone.output();
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + rows, all.begin()));
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedBits,
                         ::testing::Values(Case{.name = "near",
                                                .batch = 2,
                                                .q_heads = 2,
                                                .kv_heads = 2,
                                                .q_len = 200,
                                                .kv_len = 200,
                                                .causal = Causal::kLowerRight},
                                           Case{.name = "far_apart",
                                                .batch = 2,
                                                .q_heads = 2,
                                                .kv_heads = 2,
                                                .q_len = 200,
                                                .kv_len = 700,
                                                .scale = 1.0},
                                           Case{.name = "bias_in_groups",
                                                .batch = 2,
                                                .q_heads = 2,
                                                .kv_heads = 2,
                                                .q_len = 201,
                                                .kv_len = 301,
                                                .mask_kind = MaskKind::kAdditive,
                                                .mask_dtype = DataType::kFloat16,
                                                .mask_shape = {2, 2, 201, 301}}),
                         [](const auto& info) { return info.param.name; });

int64_t multiplies(const Case& c) {
  test::Tensors tensors(c);
  run(c, tensors, emulation::kTimings[0]);
  return emulation::machine().multiplies_run;
}
constexpr int64_t kMultipliesPerTile = 2 * (128 / 16 + 128 / 16);  // of two warpgroups at D128

// Every tile of queries has a row whose maximum is not in the first tile of keys, or none has.
TEST(EmulatedForward, ComputesAgainWhereTheFirstMaximaDoNotDo) {
  Case c = {.name = "again", .q_len = 512, .kv_len = 512, .head_dim = 128, .v_head_dim = 128};
  EXPECT_EQ(multiplies(c), 16 * kMultipliesPerTile);
  c.scale = 4.0;
  EXPECT_EQ(multiplies(c), 2 * 16 * kMultipliesPerTile);
}

// Blocks that the masks empty are neither loaded nor multiplied.
TEST(EmulatedForward, SkipsEmptyBlocks) {
  const Case full = {
      .name = "skips", .q_len = 512, .kv_len = 512, .head_dim = 128, .v_head_dim = 128};
  Case causal = full, window = full;
  causal.causal = Causal::kUpperLeft;
  window.window_left = 10;
  window.window_right = 10;
  EXPECT_EQ(multiplies(full), 16 * kMultipliesPerTile);
  EXPECT_EQ(multiplies(causal), 10 * kMultipliesPerTile);
  EXPECT_EQ(multiplies(window), 10 * kMultipliesPerTile);
  Case blocks = full;
  blocks.block_q = blocks.block_k = 128;
  blocks.full_density = 1.0;
  blocks.causal = Causal::kUpperLeft;
  EXPECT_EQ(multiplies(blocks), 10 * kMultipliesPerTile);
  Case keys = full;
  keys.mask_kind = MaskKind::kBool;
  keys.mask_shape = {1, 1, 1, 512};
  keys.kept = {129};
  EXPECT_EQ(multiplies(keys), 8 * kMultipliesPerTile);
}

// A tile that a mask of keys empties adds nothing, to the bit: it may be skipped or computed.
TEST(EmulatedForward, SkippedKeysLeaveTheSameBits) {
  Case alone = {.name = "skipped",
                .q_len = 130,
                .kv_len = 640,
                .mask_kind = MaskKind::kBool,
                .mask_shape = {1, 1, 1, 640},
                .kept = {200}};
  Case every_row = alone;
  every_row.mask_shape = {1, 1, 130, 640};
  test::Tensors skipped(alone), computed(every_row);
  run(alone, skipped, emulation::kTimings[0]);
  run(every_row, computed, emulation::kTimings[0]);
  EXPECT_EQ(skipped.output(), computed.output());
}

}  // namespace
}  // namespace bsk::sm90::attention_forward
