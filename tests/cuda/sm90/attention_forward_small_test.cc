// The latency kernel's own source, emulated, against the fp64 reference.
#include <gtest/gtest.h>

#include <cstring>

#include "src/cuda/sm90/attention_forward/launch.h"
#include "src/cuda/sm90/attention_forward_small/launch.h"
#include "src/cuda/sm90/problem.h"
#include "tests/cuda/emulated_attention.h"

namespace bsk::sm90::attention_forward_small {
namespace {

using test::Case;
using test::emulated_gpu;

void run(const Case& c, const test::Tensors& tensors, emulation::Timing timing) {
  const AttentionProblem& problem = tensors.problem;
  const DeviceProperties device = emulated_gpu(c.multiprocessors);
  const auto against = reasons(problem, device);
  ASSERT_TRUE(against.empty()) << against[0];
  const AttentionPlan plan = make_plan(problem, device);
  const ConfigChoice choice = choose_config(problem, c.multiprocessors);
  test::launch_emulated(choice.type_name(), make_params(problem, tensors.buffers),
                        tensor_map_specs(problem, choice), tensors, plan, timing);
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
void run_throughput(const Case& c, const test::Tensors& tensors, emulation::Timing timing) {
  namespace throughput = bsk::sm90::attention_forward;
  const AttentionProblem& problem = tensors.problem;
  const AttentionPlan plan = throughput::make_plan(problem, emulated_gpu(c.multiprocessors));
  const auto choice = throughput::choose_config(problem, c.multiprocessors);
  test::launch_emulated(choice.type_name(),
                        throughput::make_params(problem, tensors.buffers, choice, plan),
                        throughput::tensor_map_specs(problem, choice), tensors, plan, timing);
}

void expect_same_bits(const Case& c, const test::Tensors& a, const test::Tensors& b) {
  EXPECT_EQ(a.output(), b.output());
  EXPECT_EQ(std::memcmp(a.buffers.lse, b.buffers.lse,
                        static_cast<size_t>(c.batch * c.q_heads * c.q_len) * sizeof(float)),
            0);
}

TEST(EmulatedSmallKernel, HasTheBitsOfTheThroughputKernel) {
  for (const Case& c : cases()) {
    if (c.nan_query || c.infinite_key || c.kv_len == 0) continue;
    SCOPED_TRACE(c.name);
    test::Tensors small(c), large(c);
    run(c, small, emulation::kTimings[0]);
    if (HasFatalFailure()) return;
    run_throughput(c, large, emulation::kTimings[0]);
    expect_same_bits(c, small, large);
  }
}

// Row tiles of several batch entries in tasks of up to three: each consumer passes over the tiles
// of keys that its rows don't see, which lie behind, between and in front of those that they do.
std::vector<Case> chained_cases() {
  std::vector<Case> list = {
      {.name = "causal", .batch = 3, .q_len = 512, .kv_len = 512, .causal = Causal::kUpperLeft},
      {.name = "causal_4", .batch = 4, .q_len = 512, .kv_len = 512, .causal = Causal::kUpperLeft},
      {.name = "causal_odd", .batch = 5, .q_len = 448, .kv_len = 448, .causal = Causal::kUpperLeft},
      {.name = "causal_ragged",
       .batch = 4,
       .q_len = 333,
       .kv_len = 333,
       .causal = Causal::kLowerRight},
      {.name = "causal_gqa_bf16",
       .dtype = DataType::kBFloat16,
       .batch = 3,
       .q_heads = 2,
       .kv_heads = 1,
       .q_len = 500,
       .kv_len = 512,
       .causal = Causal::kUpperLeft},
      {.name = "upper_left_wide",
       .batch = 6,
       .q_len = 200,
       .kv_len = 512,
       .causal = Causal::kUpperLeft},
      {.name = "upper_left_tall",
       .batch = 3,
       .q_len = 512,
       .kv_len = 257,
       .causal = Causal::kUpperLeft},
      {.name = "lower_right_wide",
       .batch = 4,
       .q_len = 300,
       .kv_len = 505,
       .causal = Causal::kLowerRight},
      {.name = "window",
       .batch = 3,
       .q_len = 512,
       .kv_len = 512,
       .window_left = 40,
       .window_right = 17},
      {.name = "window_causal",
       .batch = 3,
       .q_len = 400,
       .kv_len = 512,
       .causal = Causal::kLowerRight,
       .window_left = 150},
      {.name = "window_of_one",
       .batch = 5,
       .q_len = 512,
       .kv_len = 512,
       .window_left = 0,
       .window_right = 0},
      {.name = "window_ahead",  // consumers see tiles 1 to 2, 1 to 3 and 2 to 3
       .batch = 3,
       .q_len = 192,
       .kv_len = 512,
       .causal = Causal::kLowerRight,
       .window_left = 190},
      {.name = "causal_d32",
       .batch = 3,
       .q_len = 450,
       .kv_len = 512,
       .head_dim = 32,
       .v_head_dim = 32,
       .causal = Causal::kLowerRight},
  };
  // As many multiprocessors as one batch entry has row tiles, the fewest, or three more.
  for (size_t i = 0; i < list.size(); ++i) {
    list[i].multiprocessors =
        static_cast<int>((list[i].q_len + 63) / 64 * list[i].q_heads + i % 2 * 3);
  }
  return list;
}

// By the latency kernel, on a GPU that has room for the whole batch at once.
void run_in_one_wave(Case c, const test::Tensors& tensors) {
  c.multiprocessors *= static_cast<int>(c.batch);
  run(c, tensors, emulation::kTimings[0]);
}

class EmulatedChains : public ::testing::TestWithParam<Case> {};

TEST_P(EmulatedChains, HaveTheBitsOfTheLatencyKernel) {
  const Case& c = GetParam();
  test::Tensors small(c);
  run_in_one_wave(c, small);
  if (HasFatalFailure()) return;
  for (const emulation::Timing timing : emulation::kTimings) {
    test::Tensors large(c);
    run_throughput(c, large, timing);
    test::expect_matches(c, large);
    expect_same_bits(c, small, large);
  }
}

// With scores so far apart that tasks are computed again.
TEST_P(EmulatedChains, HaveThemWhereTheFirstMaximaDoNotDo) {
  Case c = GetParam();
  c.scale = c.dtype == DataType::kFloat16 ? 4.0 : 16.0;
  test::Tensors small(c), large(c);
  run_in_one_wave(c, small);
  if (HasFatalFailure()) return;
  run_throughput(c, large, emulation::kTimings[2]);
  expect_same_bits(c, small, large);
}

TEST_P(EmulatedChains, MultiplyTheTilesThatAConsumerSees) {
  const Case& c = GetParam();
  const test::Tensors tensors(c);
  const tile::Visibility visibility = visibility_of(tensors.problem);
  const auto sees = [&](int64_t row, int64_t key) {
    return row < c.q_len && key < c.kv_len && key >= row + visibility.first &&
           key < row + visibility.end;
  };
  int64_t seen = 0;
  for (int64_t row = 0; row < c.q_len; row += 64) {
    for (int64_t key = 0; key < c.kv_len; key += 128) {
      bool any = false;
      for (int64_t i = 0; i < 64; ++i)
        for (int64_t j = 0; j < 128; ++j) any = any || sees(row + i, key + j);
      seen += any;
    }
  }
  run_throughput(c, tensors, emulation::kTimings[1]);
  const int64_t of_tile = c.head_dim / 16 + 128 / 16;
  EXPECT_EQ(emulation::machine().multiplies_run, c.batch * c.q_heads * seen * of_tile);
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedChains, ::testing::ValuesIn(chained_cases()),
                         [](const auto& info) { return info.param.name; });

// Rows that see nothing at all beside rows that do.
TEST(EmulatedSmallKernel, HasTheBitsOfTheThroughputKernelWhereRowsSeeNothing) {
  for (const int q_len : {330, 450, 512}) {
    Case c = {.name = "nothing",
              .batch = 3,
              .q_len = q_len,
              .kv_len = 200,
              .causal = Causal::kLowerRight,
              .multiprocessors = (q_len + 63) / 64};
    test::Tensors small(c), large(c);
    run_in_one_wave(c, small);
    if (HasFatalFailure()) return;
    run_throughput(c, large, emulation::kTimings[2]);
    test::expect_matches(c, large);
    expect_same_bits(c, small, large);
  }
}

TEST(EmulatedSmallKernel, SaysWhyItCannot) {
  Case c = {.name = "why", .q_len = 1024, .kv_len = 1024};
  const test::Tensors tensors(c);
  const auto against = reasons(tensors.problem, emulated_gpu(c.multiprocessors));
  ASSERT_EQ(against.size(), 1u);
  EXPECT_NE(against[0].find("up to 512 keys"), std::string::npos);
}

}  // namespace
}  // namespace bsk::sm90::attention_forward_small
