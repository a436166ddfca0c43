// The two products of attention for one warpgroup: 64 query rows against one tile of keys. Each is
// one group of wgmma; the caller waits. Tiles lie in shared memory as matrix_descriptor.cuh says.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/wgmma.cuh"
#include "src/cuda/tile/matrix_descriptor.cuh"

namespace bsk::tile {

// S[64, kKvTile] = Q K^T. `q` points at the warpgroup's first row in a tile of kQTile rows.
template <arch::Element kElement, int kHeadDim, int kQTile, int kKvTile>
__device__ __forceinline__ void issue_qk(float (&s)[kKvTile / 2], const uint16_t* q,
                                         const uint16_t* k) {
  const uint64_t q_matrix = k_major(arch::shared_address(q));
  const uint64_t k_matrix = k_major(arch::shared_address(k));
  arch::mma_fence();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    arch::mma_shared<kElement, kKvTile>(s, advance(q_matrix, column_step_bytes<kQTile>(step)),
                                        advance(k_matrix, column_step_bytes<kKvTile>(step)),
                                        step > 0);
  }
  arch::mma_commit();
}

// O[64, kVHeadDim] += P V; = without `accumulate`.
template <arch::Element kElement, int kVHeadDim, int kKvTile>
__device__ __forceinline__ void issue_pv(float (&o)[kVHeadDim / 2],
                                         const uint32_t (&p)[kKvTile / 4], const uint16_t* v,
                                         bool accumulate = true) {
  const uint64_t v_matrix = n_major<kKvTile>(arch::shared_address(v));
  arch::mma_fence_registers(o);
  arch::mma_fence();
#pragma unroll
  for (int step = 0; step < kKvTile / 16; ++step) {
    arch::mma_registers<kElement, kVHeadDim>(o, p + 4 * step,
                                             advance(v_matrix, step * 16 * arch::kSwizzleBytes),
                                             accumulate || step > 0);
  }
  arch::mma_commit();
}

}  // namespace bsk::tile
