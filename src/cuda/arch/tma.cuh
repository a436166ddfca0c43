// The copy engine: tiles from global to shared memory by tensor map.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/types.h"

namespace bsk::arch {

// What createpolicy makes of L2::evict_normal, ::evict_first and ::evict_last; the numbers are
// those of CUTLASS (cute::TMA::CacheHintSm90).
enum class CacheHint : uint64_t {
  kNormal = 0x1000000000000000,
  kEvictFirst = 0x12f0000000000000,
  kEvictLast = 0x14f0000000000000,
};

// PTX ISA 9.7.9: prefetch.tensormap.
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// PTX ISA 9.7.9: cp.async.bulk.tensor.4d. Loads the box at (column, row, head, batch); elements
// outside the tensor arrive as zeros; the barrier receives the box's full size in bytes.
__device__ __forceinline__ void load_tile(const TensorMap& map, Barrier& barrier, void* destination,
                                          int column, int row, int head, int batch,
                                          CacheHint hint) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(destination)),
      "l"(&map), "r"(column), "r"(row), "r"(head), "r"(batch), "r"(shared_address(&barrier)),
      "l"(hint)
      : "memory");
}

// PTX ISA 9.7.9: cp.async.bulk.tensor.5d. The same of queries whose heads are grouped by KV head.
__device__ __forceinline__ void load_tile(const TensorMap& map, Barrier& barrier, void* destination,
                                          int column, int head_of_group, int row, int kv_head,
                                          int batch, CacheHint hint) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(shared_address(destination)),
      "l"(&map), "r"(column), "r"(head_of_group), "r"(row), "r"(kv_head), "r"(batch),
      "r"(shared_address(&barrier)), "l"(hint)
      : "memory");
}

}  // namespace bsk::arch
