// The oracle itself: small cases worked out by hand, and the tests' own evaluation in fp64.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "tests/cpu/accuracy.h"
#include "tests/cpu/cases.h"

namespace bsk {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One head in fp64. Queries are [q_len][1] and keys [kv_len][1], so that score(i, j) = q_i * k_j;
// values are [kv_len][1].
struct Tiny {
  std::vector<double> q, k, v;
  AttentionProblem problem;
  AttentionBuffers buffers;
  std::vector<double> out;
  std::vector<float> lse;

  Tiny(std::vector<double> queries, std::vector<double> keys, std::vector<double> values)
      : q(std::move(queries)), k(std::move(keys)), v(std::move(values)) {
    problem = dense_problem(DataType::kFloat64, 1, 1, 1, static_cast<int64_t>(q.size()),
                            static_cast<int64_t>(k.size()), 1, 1);
    problem.scale = 1.0;
  }

  void run() {
    out.assign(q.size(), -99.0);
    lse.assign(q.size(), -99.0f);
    buffers.q = q.data();
    buffers.k = k.data();
    buffers.v = v.data();
    buffers.out = out.data();
    buffers.lse = lse.data();
    kCpuReference.prepare(problem, kCpuReference.plan(problem, {}))->launch(buffers);
  }
};

const double kLn3 = std::log(3.0);

TEST(Reference, OneKeyReturnsItsValue) {
  Tiny t({2.0, -5.0}, {3.0}, {7.0});
  t.run();
  EXPECT_EQ(t.out, (std::vector<double>{7.0, 7.0}));
  EXPECT_EQ(t.lse, (std::vector<float>{6.0f, -15.0f}));
}

TEST(Reference, EqualScoresAverage) {
  Tiny t({0.0}, {1.0, 2.0, 3.0, 4.0}, {1.0, 2.0, 3.0, 10.0});
  t.run();
  EXPECT_DOUBLE_EQ(t.out[0], 4.0);
  EXPECT_FLOAT_EQ(t.lse[0], static_cast<float>(std::log(4.0)));
}

TEST(Reference, WeightsAreExponentialsOfScaledScores) {
  Tiny t({2.0}, {0.0, kLn3}, {10.0, 20.0});
  t.problem.scale = 0.5;  // scores 0 and ln 3: weights 1/4 and 3/4
  t.run();
  EXPECT_DOUBLE_EQ(t.out[0], 17.5);
  EXPECT_FLOAT_EQ(t.lse[0], static_cast<float>(std::log(4.0)));
}

TEST(Reference, SoftcapBoundsScores) {
  Tiny t({1.0}, {1000.0, 0.0}, {1.0, 0.0});
  t.problem.softcap = kLn3;  // tanh(large) = 1: scores ln 3 and 0
  t.run();
  EXPECT_DOUBLE_EQ(t.out[0], 0.75);
}

TEST(Reference, SoftcapComesBeforeTheAdditiveMask) {
  Tiny t({1.0}, {1000.0, 1000.0}, {1.0, 0.0});
  const std::vector<double> bias = {kLn3, 0.0};
  t.problem.softcap = 0.5;
  t.problem.mask_kind = MaskKind::kAdditive;
  t.problem.mask = contiguous(DataType::kFloat64, {1, 1, 1, 2});
  t.buffers.mask = bias.data();
  t.run();
  EXPECT_DOUBLE_EQ(t.out[0], 0.75) << "ln 3 was capped";
}

TEST(Reference, CausalAlignments) {
  const std::vector<double> zero2(2, 0.0), zero3(3, 0.0);
  Tiny wide({0.0, 0.0}, zero3, {1.0, 2.0, 6.0});
  wide.problem.causal = Causal::kUpperLeft;
  wide.run();
  EXPECT_EQ(wide.out, (std::vector<double>{1.0, 1.5}));
  wide.problem.causal = Causal::kLowerRight;
  wide.run();
  EXPECT_EQ(wide.out, (std::vector<double>{1.5, 3.0}));
  Tiny tall({0.0, 0.0, 0.0}, zero2, {1.0, 3.0});
  tall.problem.causal = Causal::kUpperLeft;
  tall.run();
  EXPECT_EQ(tall.out, (std::vector<double>{1.0, 2.0, 2.0}));
  tall.problem.causal = Causal::kLowerRight;  // the first query is before the first key
  tall.run();
  EXPECT_EQ(tall.out, (std::vector<double>{0.0, 1.0, 2.0}));
  EXPECT_EQ(tall.lse[0], -std::numeric_limits<float>::infinity());
}

TEST(Reference, WindowIsRelativeToTheDiagonalInForce) {
  const std::vector<double> values = {1.0, 2.0, 4.0, 8.0};
  Tiny t({0.0, 0.0}, std::vector<double>(4, 0.0), values);
  t.problem.window_left = 1;
  t.problem.window_right = 0;
  t.run();  // lower right: query 0 sits on key 2
  EXPECT_EQ(t.out, (std::vector<double>{3.0, 6.0}));
  t.problem.causal = Causal::kUpperLeft;
  t.run();  // query 0 sits on key 0
  EXPECT_EQ(t.out, (std::vector<double>{1.0, 1.5}));
  t.problem.causal = Causal::kNone;
  t.problem.window_left = -1;
  t.problem.window_right = 1;
  t.run();
  EXPECT_EQ(t.out, (std::vector<double>{3.75, 3.75}));
}

TEST(Reference, MasksRemovePairs) {
  Tiny t({0.0, 0.0}, {0.0, 0.0}, {2.0, 4.0});
  const std::vector<uint8_t> allowed = {1, 0, 0, 0};
  t.problem.mask_kind = MaskKind::kBool;
  t.problem.mask = contiguous(DataType::kBool, {1, 1, 2, 2});
  t.buffers.mask = allowed.data();
  t.run();
  EXPECT_EQ(t.out, (std::vector<double>{2.0, 0.0}));
  EXPECT_EQ(t.lse[1], -std::numeric_limits<float>::infinity());
  const std::vector<float> bias = {-std::numeric_limits<float>::infinity(), 1.0f,
                                   -std::numeric_limits<float>::infinity(),
                                   -std::numeric_limits<float>::infinity()};
  t.problem.mask_kind = MaskKind::kAdditive;
  t.problem.mask = contiguous(DataType::kFloat32, {1, 1, 2, 2});
  t.buffers.mask = bias.data();
  t.run();
  EXPECT_EQ(t.out, (std::vector<double>{4.0, 0.0}));
  EXPECT_EQ(t.lse[0], 1.0f);
}

TEST(Reference, TheMostNegativeNumberIsNotMinusInfinity) {
  Tiny t({0.0}, {0.0, 0.0}, {2.0, 4.0});
  const std::vector<float> bias(2, std::numeric_limits<float>::lowest());
  t.problem.mask_kind = MaskKind::kAdditive;
  t.problem.mask = contiguous(DataType::kFloat32, {1, 1, 1, 2});
  t.buffers.mask = bias.data();
  t.run();
  EXPECT_DOUBLE_EQ(t.out[0], 3.0);
}

TEST(Reference, BlockMaskListsAndBits) {
  const int64_t q_len = 65, kv_len = 40;  // two query blocks of 64, three key blocks of 16
  std::vector<double> values(kv_len);
  for (size_t j = 0; j < values.size(); ++j) values[j] = static_cast<double>(j);
  Tiny t(std::vector<double>(q_len, 0.0), std::vector<double>(kv_len, 0.0), values);
  t.problem.block_mask = {true, 64, 16, 1, 1, 2, 1, 1};
  const std::vector<int32_t> full_counts = {1, 0}, full_indices = {2, 99};
  const std::vector<int32_t> partial_counts = {1, 1}, partial_indices = {0, 1};
  std::vector<uint8_t> bits(2 * 64 * 2, 0);
  bits[0] = 0b00000101;     // query 0, block 0: keys 0 and 2
  bits[2 * 3 + 1] = 0x80;   // query 3, block 0: key 15
  bits[2 * 64 + 0] = 0x02;  // query 64, block 1: key 17
  t.buffers.block_mask = {full_counts.data(), full_indices.data(), partial_counts.data(),
                          partial_indices.data(), bits.data()};
  t.run();
  const double tail = 32 + 33 + 34 + 35 + 36 + 37 + 38 + 39;  // block 2 ends with the keys
  EXPECT_DOUBLE_EQ(t.out[0], (0 + 2 + tail) / 10);
  EXPECT_DOUBLE_EQ(t.out[1], tail / 8);
  EXPECT_DOUBLE_EQ(t.out[3], (15 + tail) / 9);
  EXPECT_DOUBLE_EQ(t.out[64], 17.0);
}

TEST(Reference, NoKeysGiveZeros) {
  Tiny t({1.0, 2.0}, {}, {});
  t.run();
  EXPECT_EQ(t.out, (std::vector<double>{0.0, 0.0}));
  EXPECT_EQ(t.lse[0], -std::numeric_limits<float>::infinity());
}

TEST(Reference, QueryHeadsShareTheirGroupsKeys) {
  AttentionProblem p = dense_problem(DataType::kFloat64, 1, 4, 2, 1, 1, 1, 1);
  const std::vector<double> q(4, 1.0), k = {1.0, 2.0}, v = {10.0, 20.0};
  std::vector<double> out(4);
  AttentionBuffers b;
  b.q = q.data();
  b.k = k.data();
  b.v = v.data();
  b.out = out.data();
  kCpuReference.prepare(p, kCpuReference.plan(p, {}))->launch(b);
  EXPECT_EQ(out, (std::vector<double>{10.0, 10.0, 20.0, 20.0}));
}

TEST(Reference, NotANumberReachesTheRowsThatSeeIt) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (bool in_key : {true, false}) {
    Tiny t({0.0, 0.0}, {0.0, in_key ? nan : 0.0}, {5.0, in_key ? 1.0 : nan});
    t.problem.causal = Causal::kUpperLeft;
    t.run();
    EXPECT_EQ(t.out[0], 5.0) << "a removed pair showed";
    EXPECT_TRUE(std::isnan(t.out[1]));
  }
}

TEST(Reference, InfiniteScores) {
  Tiny up({1.0}, {kInfinity, 0.0}, {1.0, 2.0});
  up.run();
  EXPECT_TRUE(std::isnan(up.out[0])) << "inf - inf, as in SDPA";
  Tiny down({1.0}, {-kInfinity, 0.0}, {1.0, 2.0});
  down.run();
  EXPECT_EQ(down.out[0], 2.0);
}

// out = (v0 + v1) / 2 in fp64, rounded once.
double rounded_average(DataType dtype, double v0, double v1) {
  HaloTensor q(dtype, {1, 1, 1, 1}, Placement::kTight), k(dtype, {1, 1, 2, 1}, Placement::kTight);
  HaloTensor v = k, out = q;
  q.set(0, 0, 0, 0, 0.0);
  for (int64_t j : {0, 1}) k.set(0, 0, j, 0, 0.0);
  v.set(0, 0, 0, 0, v0);
  v.set(0, 0, 1, 0, v1);
  AttentionProblem p = dense_problem(dtype, 1, 1, 1, 1, 2, 1, 1);
  AttentionBuffers b;
  b.q = q.data();
  b.k = k.data();
  b.v = v.data();
  b.out = out.data();
  kCpuReference.prepare(p, kCpuReference.plan(p, {}))->launch(b);
  return out.get(0, 0, 0, 0);
}

TEST(Reference, OutputRoundsToNearestTiesToEven) {
  const double half = std::ldexp(1.0, -10);  // fp16's spacing at 1
  EXPECT_EQ(rounded_average(DataType::kFloat16, 1.0, 1.0 + half), 1.0);
  EXPECT_EQ(rounded_average(DataType::kFloat16, 1.0 + half, 1.0 + 2 * half), 1.0 + 2 * half);
  const double brain = std::ldexp(1.0, -7);  // bf16's
  EXPECT_EQ(rounded_average(DataType::kBFloat16, 1.0, 1.0 + brain), 1.0);
  EXPECT_EQ(rounded_average(DataType::kBFloat16, -1.0 - brain, -1.0 - 2 * brain), -1.0 - 2 * brain);
  const double tiny = std::ldexp(1.0, -24);  // fp16's smallest
  EXPECT_EQ(rounded_average(DataType::kFloat16, 2 * tiny, 3 * tiny), 2 * tiny);
  EXPECT_EQ(rounded_average(DataType::kFloat16, 0.0, tiny), 0.0);
  EXPECT_EQ(rounded_average(DataType::kFloat16, 65504.0, 65504.0), 65504.0);
  EXPECT_EQ(rounded_average(DataType::kFloat16, 1023 * tiny, 1025 * tiny), 1024 * tiny);
}

class ReferenceCases : public testing::TestWithParam<Case> {};

// The same numbers through the tests' own loop over pairs, which knows masks as they were meant and
// not as lists, strides and bits.
TEST_P(ReferenceCases, AgreeWithThePlainEvaluation) {
  CaseData data(GetParam());
  const Output got = data.reference();
  const AttentionProblem& p = data.problem;
  std::vector<double> row;
  for (int64_t b = 0; b < p.batch(); ++b) {
    for (int64_t h = 0; h < p.q_heads(); ++h) {
      for (int64_t i = 0; i < p.q_len(); ++i) {
        const double lse = data.plain_row<double>(b, h, i, &row);
        const auto at = static_cast<size_t>((b * p.q_heads() + h) * p.q_len() + i);
        ASSERT_EQ(got.lse[at], static_cast<float>(lse));
        for (int64_t d = 0; d < p.v_head_dim(); ++d) {
          ASSERT_NEAR(got.out.get(b, h, i, d), row[static_cast<size_t>(d)], 1e-12);
        }
      }
    }
  }
}

std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Smoke, ReferenceCases, testing::ValuesIn(smoke_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Edge, ReferenceCases, testing::ValuesIn(edge_cases()), name_of);

}  // namespace
}  // namespace bsk
