// The throughput kernel's own source, emulated, against the fp64 reference.
#include "src/cuda/sm90/attention_forward/launch.h"

#include <gtest/gtest.h>

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
  const ConfigChoice choice = choose_config(problem);
  Params params = make_params(problem, tensors.buffers, choice);
  const auto specs = tensor_map_specs(problem, choice);
  params.q = test::encode_for_emulator(specs[0], tensors.buffers.q);
  params.k = test::encode_for_emulator(specs[1], tensors.buffers.k);
  params.v = test::encode_for_emulator(specs[2], tensors.buffers.v);
  const test::EmulatedEntry& entry = test::emulated_kernel(choice.type_name());
  emulation::machine().launch(static_cast<int>(made.tasks), made.threads,
                              static_cast<int>(made.shared_bytes), timing,
                              [&] { entry(&params); });
}

std::vector<Case> cases() {
  return {
      {.name = "d64", .q_len = 192, .kv_len = 256},
      {.name = "d128", .q_len = 128, .kv_len = 384, .head_dim = 128, .v_head_dim = 128},
  };
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

INSTANTIATE_TEST_SUITE_P(AttentionForward, Emulated, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace bsk::sm90::attention_forward
