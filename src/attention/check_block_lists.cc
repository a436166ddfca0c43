// debug_mode's check of what a block mask's lists hold; in normal mode kernels skip what lies out
// of range.
#include <string>

#include "src/attention/kernel.h"

namespace bsk {
namespace {

struct List {
  const char* name;
  const int32_t* counts;
  const int32_t* indices;
  int64_t width;
};

[[noreturn]] void refuse(const List& list, int64_t row, const std::string& rule, int64_t got) {
  fail(ErrorKind::kValue, std::string("block_mask.") + list.name,
       rule + " (row " + std::to_string(row) + " of [batch, heads, q_blocks] flattened)",
       std::to_string(got), "Build the mask with BlockMask's constructors, which sort and check.");
}

// One row's blocks: ascending, without repeats, inside the keys.
void check_row(const List& list, int64_t row, int64_t kv_blocks) {
  const int32_t count = list.counts[row];
  if (count < 0 || count > list.width) {
    refuse(list, row, "must have counts from 0 to its width, " + std::to_string(list.width), count);
  }
  int64_t previous = -1;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t index = list.indices[row * list.width + i];
    if (index < 0 || index >= kv_blocks) {
      refuse(list, row, "must have indices from 0 to " + std::to_string(kv_blocks - 1), index);
    }
    if (index <= previous) refuse(list, row, "must ascend without repeats", index);
    previous = index;
  }
}

void check_disjoint(const List& full, const List& partial, int64_t row) {
  int32_t i = 0, j = 0;
  while (i < full.counts[row] && j < partial.counts[row]) {
    const int32_t left = full.indices[row * full.width + i];
    const int32_t right = partial.indices[row * partial.width + j];
    if (left == right) refuse(partial, row, "must not list a block that full_indices lists", right);
    (left < right ? i : j) += 1;
  }
}

}  // namespace

void check_block_lists(const AttentionProblem& problem, const BlockMaskBuffers& buffers) {
  const BlockMaskLayout& mask = problem.block_mask;
  const int64_t kv_blocks = (problem.kv_len() + mask.block_k - 1) / mask.block_k;
  const List full = {"full_indices", buffers.full_counts, buffers.full_indices, mask.full_width};
  const List partial = {"partial_indices", buffers.partial_counts, buffers.partial_indices,
                        mask.partial_width};
  for (int64_t row = 0; row < mask.batch * mask.heads * mask.q_blocks; ++row) {
    check_row(full, row, kv_blocks);
    if (partial.counts == nullptr) continue;
    check_row(partial, row, kv_blocks);
    check_disjoint(full, partial, row);
  }
}

}  // namespace bsk
