// The latency kernel's own source, emulated, against the fp64 reference.
#include <gtest/gtest.h>

#include <cstring>

#include "src/cuda/sm90/attention_forward/launch.h"
#include "src/cuda/sm90/attention_forward_small/launch.h"
#include "tests/cuda/emulated_attention.h"

namespace bsk::sm90::attention_forward_small {
namespace {

using test::Case;

DeviceProperties emulated_gpu(const Case& c) {
  DeviceProperties device;
  device.type = DeviceType::kCuda;
  device.compute_capability = 90;
  device.multiprocessors = c.multiprocessors;
  return device;
}

void run(const Case& c, const test::Tensors& tensors, emulation::Timing timing) {
  const AttentionProblem& problem = tensors.problem;
  const DeviceProperties device = emulated_gpu(c);
  const auto against = reasons(problem, device);
  ASSERT_TRUE(against.empty()) << against[0];
  const AttentionPlan plan = make_plan(problem, device);
  const ConfigChoice choice = choose_config(problem, c.multiprocessors);
  Params params = make_params(problem, tensors.buffers);
  const auto specs = tensor_map_specs(problem, choice);
  params.q = test::encode_for_emulator(specs[0], tensors.buffers.q);
  params.k = test::encode_for_emulator(specs[1], tensors.buffers.k);
  params.v = test::encode_for_emulator(specs[2], tensors.buffers.v);
  const test::EmulatedEntry& entry = test::emulated_kernel(choice.type_name());
  emulation::machine().launch(static_cast<int>(plan.tasks), plan.threads,
                              static_cast<int>(plan.shared_bytes), timing, [&] { entry(&params); });
}

std::vector<Case> cases() {
  return {
      {.name = "s512", .q_len = 128, .kv_len = 512},
      {.name = "s512_causal",
       .q_len = 512,
       .kv_len = 512,
       .causal = Causal::kUpperLeft,
       .multiprocessors = 8},
      {.name = "chains2_ragged",
       .q_len = 200,
       .kv_len = 500,
       .causal = Causal::kLowerRight,
       .multiprocessors = 4},
      {.name = "many_multiprocessors", .q_len = 128, .kv_len = 512, .multiprocessors = 132},
      {.name = "many_multiprocessors_causal_gqa",
       .dtype = DataType::kBFloat16,
       .batch = 2,
       .q_heads = 4,
       .kv_heads = 2,
       .q_len = 300,
       .kv_len = 300,
       .causal = Causal::kUpperLeft,
       .multiprocessors = 132},
      {.name = "many_multiprocessors_one_query", .q_len = 1, .kv_len = 257, .multiprocessors = 132},
      {.name = "many_multiprocessors_window",
       .q_len = 400,
       .kv_len = 500,
       .window_left = 40,
       .window_right = 17,
       .multiprocessors = 132},
      {.name = "s128", .q_len = 128, .kv_len = 128},
      {.name = "s128_causal_ragged",
       .q_heads = 4,
       .kv_heads = 2,
       .q_len = 100,
       .kv_len = 100,
       .causal = Causal::kUpperLeft,
       .multiprocessors = 8},
      {.name = "no_keys", .q_len = 70, .kv_len = 0},
      {.name = "one_pair", .q_len = 1, .kv_len = 1},
      {.name = "one_query", .q_len = 1, .kv_len = 511},
      {.name = "one_key", .q_len = 65, .kv_len = 1},
      {.name = "d40_v24", .q_len = 80, .kv_len = 300, .head_dim = 40, .v_head_dim = 24},
      {.name = "d128_s128", .q_len = 128, .kv_len = 120, .head_dim = 128, .v_head_dim = 128},
      {.name = "d128_bf16",
       .dtype = DataType::kBFloat16,
       .q_len = 128,
       .kv_len = 128,
       .head_dim = 128,
       .v_head_dim = 128},
      {.name = "d96_v80",
       .q_len = 250,
       .kv_len = 101,
       .head_dim = 96,
       .v_head_dim = 80,
       .causal = Causal::kLowerRight,
       .multiprocessors = 4},
      {.name = "upper_left_tall",
       .q_len = 500,
       .kv_len = 70,
       .causal = Causal::kUpperLeft,
       .multiprocessors = 8},
      {.name = "lower_right_tall",
       .q_len = 500,
       .kv_len = 70,
       .causal = Causal::kLowerRight,
       .multiprocessors = 8},
      {.name = "window",
       .q_len = 400,
       .kv_len = 400,
       .window_left = 40,
       .window_right = 17,
       .multiprocessors = 8},
      {.name = "nan_query", .q_len = 70, .kv_len = 300, .nan_query = true},
      {.name = "infinite_key", .q_len = 70, .kv_len = 300, .infinite_key = true},
      {.name = "huge_scale", .q_len = 70, .kv_len = 300, .scale = 30.0},
  };
}

class EmulatedSmall : public ::testing::TestWithParam<Case> {};

TEST_P(EmulatedSmall, MatchesTheReference) {
  for (const emulation::Timing timing : emulation::kTimings) {
    test::Tensors tensors(GetParam());
    run(GetParam(), tensors, timing);
    if (HasFatalFailure()) return;
    test::expect_matches(GetParam(), tensors);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedSmall, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// Where a batch is too large for this kernel the throughput kernel takes it: a row must not notice.
TEST(EmulatedSmallKernel, HasTheBitsOfTheThroughputKernel) {
  for (const Case& c : cases()) {
    if (c.nan_query || c.infinite_key || c.kv_len == 0) continue;
    SCOPED_TRACE(c.name);
    test::Tensors small(c), large(c);
    run(c, small, emulation::kTimings[0]);
    if (HasFatalFailure()) return;

    namespace throughput = bsk::sm90::attention_forward;
    const DeviceProperties device = emulated_gpu(c);
    const AttentionPlan plan = throughput::make_plan(large.problem, device);
    const auto choice = throughput::choose_config(large.problem, c.multiprocessors);
    auto params = throughput::make_params(large.problem, large.buffers, choice, plan);
    const auto specs = throughput::tensor_map_specs(large.problem, choice);
    params.q = test::encode_for_emulator(specs[0], large.buffers.q);
    params.k = test::encode_for_emulator(specs[1], large.buffers.k);
    params.v = test::encode_for_emulator(specs[2], large.buffers.v);
    const test::EmulatedEntry& entry = test::emulated_kernel(choice.type_name());
    emulation::machine().launch(static_cast<int>(plan.tasks), plan.threads,
                                static_cast<int>(plan.shared_bytes), emulation::kTimings[0],
                                [&] { entry(&params); });
    EXPECT_EQ(small.output(), large.output());
    EXPECT_EQ(std::memcmp(small.buffers.lse, large.buffers.lse,
                          static_cast<size_t>(c.batch * c.q_heads * c.q_len) * sizeof(float)),
              0);
  }
}

TEST(EmulatedSmallKernel, SaysWhyItCannot) {
  Case c = {.name = "why", .q_len = 1024, .kv_len = 1024};
  const test::Tensors tensors(c);
  const auto against = reasons(tensors.problem, emulated_gpu(c));
  ASSERT_EQ(against.size(), 1u);
  EXPECT_NE(against[0].find("up to 512 keys"), std::string::npos);
}

}  // namespace
}  // namespace bsk::sm90::attention_forward_small
