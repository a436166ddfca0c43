// Which element of a 64-row accumulator a thread holds (cuda/arch/wgmma.cuh has the layout): for
// column group j, element i of 0..3 sits at row first_row() + 8 * (i / 2), column
// 8 * j + first_column() + i % 2.
#pragma once

#include "src/cuda/arch/core.cuh"

namespace bsk::tile {

// The same number in every lane, and the compiler sees that it is: what is derived from it (barrier
// and tile addresses) stays in uniform registers.
__device__ __forceinline__ int warpgroup_index() {
  return arch::shuffle(arch::thread_index() / arch::kWarpgroupThreads, 0);
}
__device__ __forceinline__ int warp_index() {
  return arch::shuffle(arch::thread_index() / arch::kWarpThreads, 0);
}
__device__ __forceinline__ int lane_index() { return arch::thread_index() % arch::kWarpThreads; }
__device__ __forceinline__ int fragment_row() {
  return arch::thread_index() % arch::kWarpgroupThreads / arch::kWarpThreads * 16 +
         lane_index() / 4;
}
__device__ __forceinline__ int fragment_column() { return lane_index() % 4 * 2; }

}  // namespace bsk::tile
