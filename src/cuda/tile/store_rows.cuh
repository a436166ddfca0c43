// A 64-row accumulator to global memory in 16-byte stores, without shared memory: the four lanes of
// a quad hold two columns each of four column groups; two rounds of exchange give every lane all
// eight columns of one group.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/tile/fragment.cuh"

namespace bsk::tile {

// Transposes the 4 x 4 words of a quad: lane q's words[p] becomes lane p's words[q].
__device__ __forceinline__ void transpose_quad(uint32_t (&words)[4]) {
  const bool odd = lane_index() & 1, upper = lane_index() & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t received = arch::shuffle_xor(odd ? words[i] : words[i + 1], 1);
    if (odd) {
      words[i] = received;
    } else {
      words[i + 1] = received;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t received = arch::shuffle_xor(upper ? words[i] : words[i + 2], 2);
    if (upper) {
      words[i] = received;
    } else {
      words[i + 2] = received;
    }
  }
}

// Stores one fragment row (`r` of the thread's two): `values` holds columns [first_column, + 2 *
// kCount) of it, two of every eight. `out` points at row 0 of the 64; rows from `rows` and columns
// from `columns` (a multiple of 8) on are left out. Rows are 16-byte aligned.
template <arch::Element kElement, int kCount>
__device__ __forceinline__ void store_row(const float (&values)[kCount], uint16_t* out,
                                          int64_t row_stride, int r, int rows, int first_column,
                                          int columns) {
  constexpr int kGroups = kCount / 2;
  static_assert(kGroups % 4 == 0);
  const int row = fragment_row() + 8 * r;
  uint16_t* const out_row = out + row * row_stride;
#pragma unroll
  for (int j = 0; j < kGroups; j += 4) {
    uint32_t words[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      words[p] = arch::pack<kElement>(values[2 * (j + p)], values[2 * (j + p) + 1]);
    }
    transpose_quad(words);
    const int column = first_column + 8 * (j + lane_index() % 4);
    if (row < rows && column < columns) {
      arch::store_16_bytes(out_row + column, words[0], words[1], words[2], words[3]);
    }
  }
}

// Stores factor[r] * o; zeros where the factor is 0 (the row saw nothing: O may be 0 * NaN there).
template <arch::Element kElement, int kCount>
__device__ __forceinline__ void store_rows(const float (&o)[kCount], const float (&factor)[2],
                                           uint16_t* out, int64_t row_stride, int rows,
                                           int columns) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float values[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      values[i] = factor[r] == 0.0f ? 0.0f : o[i / 2 * 4 + 2 * r + i % 2] * factor[r];
    }
    store_row<kElement>(values, out, row_stride, r, rows, 0, columns);
  }
}

}  // namespace bsk::tile
