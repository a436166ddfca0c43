// The blocked kernel against the oracle, on every instruction set of this machine.
#include <gtest/gtest.h>

#include "src/cpu/instruction_set.h"
#include "tests/cpu/accuracy.h"
#include "tests/cpu/cases.h"

namespace bsk {
namespace {

void check_case(const Case& c) {
  CaseData data(c);
  std::vector<Output> got;
  for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
    got.push_back(data.run(kCpuAttentionForward, 2, set.name));
  }
  const Output expected = data.reference();
  const FairError fair = fair_error(data, expected);
  for (size_t i = 0; i < got.size(); ++i) {
    expect_close(data, got[i], expected, fair, c.name + " on " + cpu::instruction_sets()[i].name);
  }
}

class AttentionCpu : public testing::TestWithParam<Case> {};

TEST_P(AttentionCpu, AgreesWithTheOracle) { check_case(GetParam()); }

std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Smoke, AttentionCpu, testing::ValuesIn(smoke_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Edge, AttentionCpu, testing::ValuesIn(edge_cases()), name_of);

// Every remainder of the tile, the step and the micro-kernels.
TEST(AttentionCpuLengths, EveryQueryLengthTo130) {
  for (int64_t n = 1; n <= 130; ++n) {
    check_case({.name = numbered("q", n),
                .q_heads = 1,
                .kv_heads = 1,
                .q_len = n,
                .kv_len = 67,
                .head_dim = 16,
                .causal = n % 2 == 0 ? Causal::kUpperLeft : Causal::kLowerRight,
                .placement = Placement::kTight});
  }
}

TEST(AttentionCpuLengths, EveryKeyLengthTo130) {
  for (int64_t n = 1; n <= 130; ++n) {
    check_case({.name = numbered("kv", n),
                .q_heads = 1,
                .kv_heads = 1,
                .q_len = 21,
                .kv_len = n,
                .head_dim = 16,
                .v_head_dim = 24,
                .dtype = n % 3 == 0 ? DataType::kFloat16 : DataType::kFloat32,
                .placement = Placement::kTight});
  }
}

TEST(AttentionCpuLengths, EveryHeadDimTo70) {  // the kernel itself takes any
  for (int64_t d = 1; d <= 70; ++d) {
    check_case({.name = numbered("d", d),
                .q_heads = 1,
                .kv_heads = 1,
                .q_len = 19,
                .kv_len = 37,
                .head_dim = d,
                .v_head_dim = 71 - d,
                .dtype = d % 2 == 0 ? DataType::kBFloat16 : DataType::kFloat32,
                .placement = Placement::kTight});
  }
}

TEST(AttentionCpuLengths, Primes) {
  for (int64_t q_len : {2, 31, 127, 257}) {
    for (int64_t kv_len : {3, 61, 131, 509}) {
      check_case({.name = numbered(numbered("q", q_len) + "_kv", kv_len),
                  .q_heads = 3,
                  .kv_heads = 3,
                  .q_len = q_len,
                  .kv_len = kv_len,
                  .head_dim = 16,
                  .causal = Causal::kLowerRight,
                  .window_left = 41});
    }
  }
}

TEST(AttentionCpuPlan, TasksThreadsAndInstructionSet) {
  DeviceProperties device;
  device.threads = 8;
  AttentionProblem p = dense_problem(DataType::kFloat32, 1, 8, 2, 1, 100, 64, 64);
  EXPECT_EQ(kCpuAttentionForward.plan(p, device).tasks, 2) << "a group's heads share a tile";
  EXPECT_EQ(kCpuAttentionForward.plan(p, device).threads, 2) << "no more threads than tasks";
  p = dense_problem(DataType::kFloat32, 2, 8, 2, 200, 100, 64, 64);
  EXPECT_EQ(kCpuAttentionForward.plan(p, device).tasks, 2 * 8 * 4);
  EXPECT_EQ(kCpuAttentionForward.plan(p, device).threads, 8);
  EXPECT_EQ(kCpuAttentionForward.plan(p, device).config, cpu::instruction_sets().front().name);
  EXPECT_THROW(cpu::tile_function("avx1024"), Error);
}

TEST(AttentionCpuReasons, NameWhatItCannotTake) {
  const AttentionProblem wide = dense_problem(DataType::kFloat64, 1, 1, 1, 4, 4, 16, 16);
  EXPECT_EQ(kCpuAttentionForward.reasons(wide, {}).size(), 1u);
  const AttentionProblem fine = dense_problem(DataType::kBFloat16, 1, 1, 1, 4, 4, 16, 16);
  EXPECT_TRUE(kCpuAttentionForward.reasons(fine, {}).empty());
  DeviceProperties gpu;
  gpu.type = DeviceType::kCuda;
  EXPECT_EQ(kCpuAttentionForward.reasons(fine, gpu).size(), 1u);
  EXPECT_EQ(kCpuReference.reasons(fine, gpu).size(), 1u);
  EXPECT_TRUE(kCpuReference.reasons(wide, {}).empty());
}

}  // namespace
}  // namespace bsk
