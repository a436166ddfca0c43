// The two products of attention for one warp: 16 query rows against some keys of a tile, which lies
// in shared memory as matrix_descriptor.cuh says. Rows are the M of both, so that scores and
// weights have the fragments of a 64-row tile's warp (fragment.cuh), and what is done to them is
// the same.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/mma.cuh"
#include "src/cuda/tile/fragment.cuh"

namespace bsk::tile {

constexpr int kWarpRows = 16;

// Where a lane's 16 bytes of 16 columns lie among the rows of a tile: those of matrices of 8 x 8
// elements, of which number i has rows from 8 `i % 2` on and columns from 8 `i / 2` on, or the
// other way round where kColumnsFirst. In elements; tiles are kTileRows rows.
template <int kTileRows, bool kColumnsFirst>
struct MatrixPlace {
  int of_lane;

  __device__ __forceinline__ MatrixPlace() {
    const int matrix = lane_index() / 8, low = matrix % 2, high = matrix / 2;
    const int row = lane_index() % 8 + 8 * (kColumnsFirst ? high : low);
    of_lane = row * arch::kSwizzleElements + (row % 8 ^ (kColumnsFirst ? low : high)) * 8;
  }
  // Of 16 columns number `step`, in 16 rows from `row` (a multiple of 8) on.
  __device__ __forceinline__ int at(int row, int step) const {
    return (of_lane ^ step % 4 * 16) + step / 4 * kTileRows * arch::kSwizzleElements +
           row * arch::kSwizzleElements;
  }
};

// 16 columns of Q, number `step`, as the A operand.
__device__ __forceinline__ void load_q_step(const uint16_t* q, int step,
                                            const MatrixPlace<kWarpRows, false>& place,
                                            uint32_t (&a)[4]) {
  arch::load_matrices(q + place.at(0, step), a);
}

// S[16, kKeys] += Q K^T for 16 columns number `step` of both, of the keys from `first_row` of the
// tile on.
template <arch::Element kElement, int kTileKeys, int kKeys>
__device__ __forceinline__ void multiply_qk_step(float (&s)[kKeys / 2], const uint32_t (&q)[4],
                                                 const uint16_t* k, int first_row, int step,
                                                 const MatrixPlace<kTileKeys, true>& place) {
#pragma unroll
  for (int group = 0; group < kKeys / 16; ++group) {
    uint32_t b[4];
    arch::load_matrices(k + place.at(first_row + 16 * group, step), b);
    arch::mma_warp<kElement>(&s[8 * group], q, b[0], b[1]);
    arch::mma_warp<kElement>(&s[8 * group + 4], q, b[2], b[3]);
  }
}

// O[16, kVHeadDim] += P V for those keys.
template <arch::Element kElement, int kTileKeys, int kKeys, int kVHeadDim>
__device__ __forceinline__ void multiply_pv(float (&o)[kVHeadDim / 2],
                                            const uint32_t (&p)[kKeys / 4], const uint16_t* v,
                                            int first_row,
                                            const MatrixPlace<kTileKeys, false>& place) {
#pragma unroll
  for (int group = 0; group < kKeys / 16; ++group) {
#pragma unroll
    for (int step = 0; step < kVHeadDim / 16; ++step) {
      uint32_t b[4];
      arch::load_matrices_transposed(v + place.at(first_row + 16 * group, step), b);
      arch::mma_warp<kElement>(&o[8 * step], &p[4 * group], b[0], b[1]);
      arch::mma_warp<kElement>(&o[8 * step + 4], &p[4 * group], b[2], b[3]);
    }
  }
}

}  // namespace bsk::tile
