// A 64-row tile of grouped queries: row r is query first_query + r / heads of head first_head + r %
// heads, so that all heads that share K and V read them once. What depends on a row's position goes
// by its query and head, of which a thread has two.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/mask.cuh"
#include "src/cuda/tile/visible_range.cuh"

namespace bsk::tile {

// Removes from a tile of kKeys keys those outside each row's range.
template <int kKeys>
__device__ __forceinline__ void remove_outside(float (&scores)[kKeys / 2], int first_key,
                                               const KeyRange (&ranges)[kRowsPerThread]) {
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const unsigned length = ranges[r].end > ranges[r].begin ? ranges[r].end - ranges[r].begin : 0;
    const unsigned offset = first_key + fragment_column() - ranges[r].begin;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        // Unsigned: a key before the range counts as far beyond it.
        if (!(offset + (8 * j + c) < length)) scores[4 * j + 2 * r + c] = kMinusInfinity;
      }
    }
  }
}

// attn_mask, whose rows start at `row_offsets` and span less than 2^31 elements. Keys beyond the
// end read the last one; they are removed afterwards.
template <MaskType kMask, int kKeys>
__device__ __forceinline__ void apply_mask_rows(float (&scores)[kKeys / 2], int first_key,
                                                const MaskTensor& mask,
                                                const int64_t (&row_offsets)[kRowsPerThread],
                                                int kv_len) {
  const auto column_stride = static_cast<int>(mask.column_stride);  // 64 bits would spill
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int key = first_key + 8 * j + fragment_column() + c;
      const int column_offset = (key < kv_len ? key : kv_len - 1) * column_stride;
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) {
        const int64_t at = row_offsets[r] + column_offset;
        float& score = scores[4 * j + 2 * r + c];
        mask_score<kMask>(score, mask, at);
      }
    }
  }
}

}  // namespace bsk::tile
