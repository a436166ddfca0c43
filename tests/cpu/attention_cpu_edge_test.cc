// The blocked kernel where inputs are empty, not finite or plain garbage.
#include <gtest/gtest.h>

#include <limits>

#include "src/cpu/instruction_set.h"
#include "tests/cpu/accuracy.h"
#include "tests/cpu/cases.h"

namespace bsk {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void expect_agreement(CaseData& data, const std::string& what) {
  // Values that are not finite have no fair error: what is finite beside them must be exact enough.
  const Output expected = data.reference();
  for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
    const Output got = data.run(kCpuAttentionForward, 2, set.name);
    expect_close(data, got, expected, {1e-5, 1e-5}, what + " on " + set.name);
  }
}

TEST(AttentionCpuEmpty, NoKeysGiveZerosAndMinusInfinity) {
  for (DataType dtype : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
    CaseData data({.name = "no keys", .q_len = 70, .kv_len = 0, .dtype = dtype});
    expect_agreement(data, "no keys");
    EXPECT_EQ(data.run(kCpuAttentionForward).out.get(0, 1, 69, 3), 0.0);
  }
}

TEST(AttentionCpuEmpty, NoQueriesOrBatchDoNothing) {
  CaseData no_queries({.name = "no queries", .q_len = 0, .kv_len = 9});
  EXPECT_TRUE(no_queries.run(kCpuAttentionForward, 2).out.halo_untouched());
  CaseData no_batch({.name = "no batch", .batch = 0, .q_len = 5, .kv_len = 9});
  EXPECT_TRUE(no_batch.run(kCpuAttentionForward, 2).out.halo_untouched());
  EXPECT_EQ(kCpuAttentionForward.plan(no_batch.problem, {}).tasks, 0);
}

TEST(AttentionCpuEmpty, NoKeysWithBlockMask) {
  CaseData data({.name = "no keys, block mask", .q_len = 70, .kv_len = 0, .blocks = {64, 64}});
  expect_agreement(data, "no keys, block mask");
}

// Rows of V and K that a mask removes may hold anything: cached but unwritten memory is the rule.
TEST(AttentionCpuSpecial, RemovedPairsNeverShow) {
  std::vector<Case> cases = {
      {.name = "causal", .q_len = 150, .kv_len = 150, .causal = Causal::kUpperLeft},
      {.name = "window", .q_len = 150, .kv_len = 150, .window_left = 20, .window_right = 3},
      {.name = "bool", .q_len = 70, .kv_len = 150, .mask = {.kind = MaskKind::kBool}},
      {.name = "additive", .q_len = 70, .kv_len = 150, .mask = {.kind = MaskKind::kAdditive}},
      {.name = "padding",
       .q_len = 70,
       .kv_len = 150,
       .mask = {.kind = MaskKind::kBool, .full = {false, false, false, true}}},
      {.name = "additive_padding",
       .q_len = 70,
       .kv_len = 150,
       .mask = {.kind = MaskKind::kAdditive, .full = {false, false, false, true}}},
      {.name = "blocks",
       .q_len = 150,
       .kv_len = 150,
       .blocks = {.block_q = 64, .block_k = 32, .partial_density = 0.5}},
      // Tiles of few rows have code of their own.
      {.name = "few_causal", .q_len = 2, .kv_len = 43, .causal = Causal::kLowerRight},
      {.name = "few_bool", .q_len = 2, .kv_len = 150, .mask = {.kind = MaskKind::kBool}},
      {.name = "few_additive", .q_len = 2, .kv_len = 150, .mask = {.kind = MaskKind::kAdditive}},
  };
  for (Case& c : cases) {
    for (DataType dtype : {DataType::kFloat32, DataType::kBFloat16}) {
      for (double special : {kNan, kInfinity, -kInfinity}) {
        c.dtype = dtype;
        CaseData data(c);
        for (int64_t j = 5; j < c.kv_len; j += 37) {
          data.v.set(0, 0, j, j % 16, special);
          data.v.set(0, 1, j, 63, special);
          if (std::isnan(special)) data.k.set(0, 1, j + 1, 7, special);
        }
        const Output expected = data.reference();
        for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
          const Output got = data.run(kCpuAttentionForward, 1, set.name);
          expect_close(data, got, expected,
                       dtype == DataType::kFloat32 ? FairError{1e-5, 1e-5} : FairError{1e-2, 1e-5},
                       c.name + " on " + set.name);
        }
      }
    }
  }
}

TEST(AttentionCpuSpecial, NotANumberReachesItsRowsOnly) {
  CaseData data({.name = "nan", .q_len = 100, .kv_len = 100});
  data.q.set(0, 1, 17, 3, kNan);
  data.k.set(0, 0, 99, 5, kNan);  // all of head 0
  expect_agreement(data, "nan");
}

TEST(AttentionCpuSpecial, InfiniteScores) {
  CaseData data({.name = "inf", .q_len = 20, .kv_len = 100, .scale = 1.0});
  for (int64_t d = 0; d < 64; ++d) {
    data.q.set(0, 0, 3, d, 1.0);
    data.k.set(0, 0, 50, d, d == 0 ? -kInfinity : 0.0);  // -inf for query 3 of head 0
    data.q.set(0, 1, 4, d, d == 0 ? kInfinity : 0.0);    // +inf or -inf for query 4 of head 1
  }
  expect_agreement(data, "inf");
}

TEST(AttentionCpuSpecial, AllScoresMinusInfinityCountAsNoKeys) {
  CaseData data({.name = "-inf",
                 .q_heads = 1,
                 .kv_heads = 1,
                 .q_len = 3,
                 .kv_len = 70,
                 .head_dim = 16,
                 .scale = 1.0});
  for (int64_t j = 0; j < 70; ++j) data.k.set(0, 0, j, 0, 1.0);
  for (int64_t d = 0; d < 16; ++d) data.q.set(0, 0, 1, d, d == 0 ? -kInfinity : 0.0);
  expect_agreement(data, "-inf");
  EXPECT_EQ(data.run(kCpuAttentionForward).out.get(0, 0, 1, 0), 0.0);
}

// torch.finfo(dtype).min is a large number, not -inf: where a whole row has it, SDPA averages.
TEST(AttentionCpuSpecial, TheMostNegativeNumberAsMask) {
  for (DataType dtype : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
    CaseData data({.name = "finfo.min",
                   .q_len = 70,
                   .kv_len = 100,
                   .mask = {.kind = MaskKind::kAdditive, .dtype = dtype, .removed = 0.0}});
    const double lowest = dtype == DataType::kFloat16 ? -65504.0
                          : dtype == DataType::kFloat32
                              ? double{std::numeric_limits<float>::lowest()}
                              : -std::ldexp(255.0, 120);
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < 70; ++i) {
        for (int64_t j = 0; j < 100; ++j) {
          data.mask.set(0, h, i, j, (j > i || i == 7) ? lowest : 0.0);
        }
      }
    }
    const Output got = data.run(kCpuAttentionForward);
    CaseData causal({.name = "causal", .q_len = 70, .kv_len = 100, .causal = Causal::kUpperLeft});
    causal.q = data.q;
    causal.k = data.k;
    causal.v = data.v;
    const Output expected = causal.reference();
    double average = 0.0;
    for (int64_t j = 0; j < 100; ++j) average += data.v.get(0, 0, j, 0) / 100;
    for (int64_t i = 0; i < 70; ++i) {
      const double wanted = i == 7 ? average : expected.out.get(0, 0, i, 0);
      // -65504 + score still tells scores apart in fp32.
      if (i == 7 && dtype == DataType::kFloat16) continue;
      EXPECT_NEAR(got.out.get(0, 0, i, 0), wanted, 1e-6) << to_string(dtype) << " row " << i;
    }
  }
}

// What lies beyond the contract may give any numbers, but nothing outside the buffers is read or
// written (address sanitizer, and the halo of the output).
TEST(AttentionCpuGarbage, BlockListsOfRandomIntegers) {
  for (int32_t block_k : {16, 32, 64, 128}) {
    CaseData data({.name = "garbage",
                   .batch = 2,
                   .q_len = 300,
                   .kv_len = 333,
                   .blocks = {.block_q = 64, .block_k = block_k, .partial_density = 0.5},
                   .placement = Placement::kTight});
    std::mt19937 random(7);
    const auto scramble = [&](std::vector<int32_t>& list) {
      for (int32_t& x : list) {
        x = random() % 3 == 0 ? static_cast<int32_t>(random())
                              : static_cast<int32_t>(random() % 24);
      }
    };
    scramble(data.pattern.full_counts);
    scramble(data.pattern.full_indices);
    scramble(data.pattern.partial_counts);
    scramble(data.pattern.partial_indices);
    for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
      const Output got = data.run(kCpuAttentionForward, 2, set.name);
      for (int64_t i = 0; i < 300; ++i) EXPECT_TRUE(std::isfinite(got.out.get(1, 1, i, 63)));
    }
    data.run(kCpuReference);
  }
}

TEST(AttentionCpuGarbage, CountsBeyondTheWidthAreHeldToIt) {
  CaseData data({.name = "counts", .q_len = 128, .kv_len = 256, .blocks = {64, 64}});
  data.pattern.layout.full_width = data.problem.block_mask.full_width = 4;
  data.pattern.full_counts = {1 << 30, -5};  // heads = 1, two query blocks
  data.pattern.full_indices = {0, 1, 2, 3, 0, 1, 2, 3};
  expect_agreement(data, "counts");
  CaseData dense({.name = "dense", .q_len = 128, .kv_len = 256});
  const Output listed = data.run(kCpuAttentionForward), all = dense.run(kCpuAttentionForward);
  EXPECT_EQ(listed.out.get(0, 0, 5, 5), all.out.get(0, 0, 5, 5));
  EXPECT_EQ(listed.out.get(0, 0, 64, 5), 0.0);
}

// 64-bit offsets: two rows of K that lie 2^32 elements apart would need 16 GiB; a stride of 0 with
// a key length beyond 2^31 needs none, and only the window is visited.
TEST(AttentionCpuSize, MoreKeysThanThirtyTwoBitsCount) {
  CaseData data({.name = "huge",
                 .q_heads = 1,
                 .kv_heads = 1,
                 .q_len = 2,
                 .kv_len = 1,
                 .head_dim = 16,
                 .window_left = 99});
  data.problem.k.shape[2] = data.problem.v.shape[2] = int64_t{1} << 33;
  data.problem.k.stride[2] = data.problem.v.stride[2] = 0;
  const Output got = data.run(kCpuAttentionForward);
  EXPECT_NEAR(got.out.get(0, 0, 1, 3), data.v.get(0, 0, 0, 3), 1e-6);
}

}  // namespace
}  // namespace bsk
