// A 64-row accumulator to global memory in 16-byte stores, without shared memory: the four lanes of
// a quad hold two columns each of four column groups; two rounds of exchange give every lane all
// eight columns of one group.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/params.h"

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

// store_rows with a third of the instructions, for up to 64 columns, through `staging` (the warp's
// kStagingBytes, 128-byte aligned): fragments are written as matrices, and read back as 16-byte
// units, eight to a row. Units are exchanged within a row so that neither meets a bank twice.
template <arch::Element kElement, int kCount>
__device__ __forceinline__ void store_rows_staged(const float (&o)[kCount],
                                                  const float (&factor)[2], uint8_t* staging,
                                                  uint16_t* out, int64_t row_stride, int rows,
                                                  int columns) {
  static_assert(kCount <= 32 && kCount % 8 == 0);
  const int lane = lane_index();
  arch::sync_warp();  // what was staged before has been read
  // Matrices of a group of 16 columns: rows 0 and 8 of its first 8 columns, then of the others.
  const int first_place = (lane % 16) * 128 + ((lane / 16) ^ (lane % 8)) * 16;
#pragma unroll
  for (int group = 0; group < kCount / 8; ++group) {
    uint32_t words[4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const int i = 8 * group + m / 2 * 4 + m % 2 * 2;
      const uint32_t word = arch::pack<kElement>(o[i] * factor[m % 2], o[i + 1] * factor[m % 2]);
      words[m] = factor[m % 2] == 0.0f ? 0 : word;
    }
    arch::store_matrices(staging + (first_place ^ group * 32), words);
  }
  arch::sync_warp();
  const int first_row = fragment_row() - lane / 4 + lane / 8;
  uint16_t* unit = out + first_row * row_stride + lane % 8 * 8;
  const int64_t step = 4 * row_stride;
  const int left = lane % 8 * 8 < columns ? rows - first_row : 0;
  const int first_place_back = lane / 8 * 128 + ((lane % 8) ^ (lane / 8)) * 16;
  uint32_t words[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    arch::load_16_bytes(staging + ((first_place_back + 512 * i) ^ i % 2 * 64), words[i]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (4 * i < left) {
      arch::store_16_bytes(unit, words[i][0], words[i][1], words[i][2], words[i][3]);
    }
    unit += step;
  }
}

}  // namespace bsk::tile
