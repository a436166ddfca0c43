// The blocked kernel's promise on bits: a row's result depends on that row's data alone. Not on the
// number of threads, on the call's other rows, heads and batches, or on which tile a row sits in.
#include <gtest/gtest.h>

#include <cstring>

#include "src/cpu/instruction_set.h"
#include "tests/cpu/cases.h"

namespace bsk {
namespace {

class AttentionCpuBits : public testing::TestWithParam<Case> {};

TEST_P(AttentionCpuBits, SameTwiceAndOnAnyNumberOfThreads) {
  CaseData data(GetParam());
  for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
    const Output once = data.run(kCpuAttentionForward, 1, set.name);
    for (int32_t threads : {1, 2, 3, 16}) {
      const Output again = data.run(kCpuAttentionForward, threads, set.name);
      EXPECT_EQ(once.out.bytes(), again.out.bytes()) << set.name << ", " << threads << " threads";
      EXPECT_EQ(once.lse, again.lse) << set.name << ", " << threads << " threads";
    }
  }
}

// The problem of query i of (b, h) alone, on the same memory.
struct OneRow {
  AttentionProblem problem;
  AttentionBuffers buffers;
  HaloTensor out;
  float lse = 0.0f;

  OneRow(CaseData& data, int64_t b, int64_t h, int64_t i) : problem(data.problem) {
    Output unused = data.empty_output();
    buffers = data.buffers(&unused);
    const AttentionProblem& p = data.problem;
    const int64_t kv_head = h / (p.q_heads() / p.kv_heads());
    buffers.q = at(data.q, b, h, i);
    buffers.k = at(data.k, b, kv_head, 0);
    buffers.v = at(data.v, b, kv_head, 0);
    problem.q.shape = {1, 1, 1, p.head_dim()};
    problem.k.shape = {1, 1, p.kv_len(), p.head_dim()};
    problem.v.shape = {1, 1, p.kv_len(), p.v_head_dim()};
    out = HaloTensor(p.out.dtype, {1, 1, 1, p.v_head_dim()}, Placement::kHalo);
    problem.out = out.layout();
    buffers.out = out.data();
    buffers.lse = &lse;
    // The keys [first, end) that causal and window leave become the call's last `end - first`.
    const int64_t diagonal = i + p.diagonal_offset();
    const int64_t reach = p.kv_len() + p.q_len();
    int64_t right = p.causal != Causal::kNone ? 0 : reach;
    if (p.window_right >= 0) right = std::min(right, p.window_right);
    const int64_t end = std::clamp<int64_t>(diagonal + right + 1, 0, p.kv_len());
    int64_t first = 0;
    if (p.window_left >= 0) first = diagonal - std::min(p.window_left, reach);
    first = std::clamp<int64_t>(first, 0, end);
    problem.causal = Causal::kNone;
    problem.window_right = -1;
    problem.window_left = first > 0 && first < end ? end - 1 - first : -1;
    const int64_t keys = first < end ? end : 0;
    problem.k.shape[2] = problem.v.shape[2] = keys;
    if (problem.mask_kind != MaskKind::kNone && problem.mask.shape[3] != 1) {
      problem.mask.shape[3] = keys;
    }
    if (problem.mask_kind != MaskKind::kNone) {
      const auto& shape = p.mask.shape;
      buffers.mask =
          at(data.mask, shape[0] == 1 ? 0 : b, shape[1] == 1 ? 0 : h, shape[2] == 1 ? 0 : i);
      problem.mask.shape[0] = problem.mask.shape[1] = problem.mask.shape[2] = 1;
    }
    if (problem.block_mask.present) take_block_row(p, b, h, i);
  }

 private:
  static char* at(HaloTensor& t, int64_t b, int64_t h, int64_t row) {
    const auto& s = t.layout().stride;
    return static_cast<char*>(t.data()) +
           (b * s[0] + h * s[1] + row * s[2]) * bytes_per_element(t.layout().dtype);
  }

  // Queries of a call of one query sit on line 0 of their block: the bits move there by pointer.
  void take_block_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t i) {
    BlockMaskLayout& m = problem.block_mask;
    const int64_t mask_head = m.heads == 1             ? 0
                              : m.heads == p.q_heads() ? h
                                                       : h / (p.q_heads() / p.kv_heads());
    const int64_t row = ((m.batch == 1 ? 0 : b) * m.heads + mask_head) * m.q_blocks + i / m.block_q;
    BlockMaskBuffers& lists = buffers.block_mask;
    lists.full_counts += row;
    lists.full_indices += row * m.full_width;
    if (m.partial_width > 0) {
      lists.partial_counts += row;
      lists.partial_indices += row * m.partial_width;
      lists.partial_bits += (row * m.partial_width * m.block_q + i % m.block_q) * (m.block_k / 8);
    }
    m.batch = m.heads = m.q_blocks = 1;
  }
};

TEST_P(AttentionCpuBits, RowAloneGivesTheSameBits) {
  CaseData data(GetParam());
  const AttentionProblem& p = data.problem;
  for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
    const Output whole = data.run(kCpuAttentionForward, 2, set.name);
    int64_t step = 1 + p.batch() * p.q_heads() * p.q_len() / 150;
    if (step % 2 == 0) ++step;
    for (int64_t r = 0; r < p.batch() * p.q_heads() * p.q_len(); r += step) {
      const int64_t i = r % p.q_len(), h = r / p.q_len() % p.q_heads(),
                    b = r / p.q_len() / p.q_heads();
      OneRow row(data, b, h, i);
      AttentionPlan plan = kCpuAttentionForward.plan(row.problem, {});
      plan.config = set.name;
      kCpuAttentionForward.prepare(row.problem, plan)->launch(row.buffers);
      ASSERT_EQ(row.lse, whole.lse[static_cast<size_t>(r)])
          << set.name << " row " << b << ", " << h << ", " << i;
      for (int64_t d = 0; d < p.v_head_dim(); ++d) {
        const double alone = row.out.get(0, 0, 0, d), together = whole.out.get(b, h, i, d);
        ASSERT_EQ(std::memcmp(&alone, &together, sizeof(alone)), 0)
            << set.name << " row " << b << ", " << h << ", " << i << ": " << alone << " and "
            << together;
      }
    }
  }
}

std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

std::vector<Case> long_cases() {
  return {
      {.name = "q300", .q_len = 300, .kv_len = 300},
      {.name = "q300_causal", .q_len = 300, .kv_len = 300, .causal = Causal::kUpperLeft},
      {.name = "q300_window", .q_len = 300, .kv_len = 410, .window_left = 70, .window_right = 12},
      {.name = "q33_group4",
       .batch = 2,
       .q_heads = 8,
       .kv_heads = 2,
       .q_len = 33,
       .kv_len = 300,
       .dtype = DataType::kBFloat16,
       .causal = Causal::kLowerRight}};
}

INSTANTIATE_TEST_SUITE_P(Smoke, AttentionCpuBits, testing::ValuesIn(smoke_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Edge, AttentionCpuBits, testing::ValuesIn(edge_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Long, AttentionCpuBits, testing::ValuesIn(long_cases()), name_of);

// Full blocks, and the same pairs by a boolean mask, are the same steps of the same sums.
TEST(AttentionCpuBitsAcross, BlockListsAndBooleanMasksAgree) {
  for (int32_t block_k : {16, 32, 64, 128}) {
    CaseData listed({.name = "listed",
                     .q_len = 200,
                     .kv_len = 300,
                     .blocks = {64, block_k, 1, false, 0.3, 0.3}});
    CaseData masked({.name = "masked", .q_len = 200, .kv_len = 300});
    masked.mask = HaloTensor(DataType::kBool, {1, 1, 200, 300}, Placement::kHalo);
    for (int64_t i = 0; i < 200; ++i) {
      for (int64_t j = 0; j < 300; ++j) masked.mask.set(0, 0, i, j, listed.allows(0, 0, i, j));
    }
    masked.problem.mask = masked.mask.layout();
    masked.problem.mask_kind = MaskKind::kBool;
    masked.q = listed.q;
    masked.k = listed.k;
    masked.v = listed.v;
    for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
      EXPECT_EQ(listed.run(kCpuAttentionForward, 1, set.name).out.bytes(),
                masked.run(kCpuAttentionForward, 1, set.name).out.bytes())
          << set.name << " key blocks of " << block_k;
    }
  }
}

}  // namespace
}  // namespace bsk
