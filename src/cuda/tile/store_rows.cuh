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

// Stores factor[r] * o of the rows below `rows` and the columns below `columns` (a multiple of 8) to
// `out`, which points at the tile's first row; its rows are 16-byte aligned.
template <arch::Element kElement, int kCount>
__device__ __forceinline__ void store_rows(const float (&o)[kCount], const float (&factor)[2],
                                           uint16_t* out, int64_t row_stride, int rows,
                                           int columns) {
  constexpr int kGroups = kCount / 4;
  static_assert(kGroups % 4 == 0);
  const int quad_lane = lane_index() % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = fragment_row() + 8 * r;
    uint16_t* const out_row = out + row * row_stride;
#pragma unroll
    for (int j = 0; j < kGroups; j += 4) {
      uint32_t words[4];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        words[p] = arch::pack<kElement>(o[4 * (j + p) + 2 * r] * factor[r],
                                        o[4 * (j + p) + 2 * r + 1] * factor[r]);
      }
      transpose_quad(words);
      const int column = 8 * (j + quad_lane);
      if (row < rows && column < columns) {
        arch::store_16_bytes(out_row + column, words[0], words[1], words[2], words[3]);
      }
    }
  }
}

}  // namespace bsk::tile
