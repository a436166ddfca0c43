// The copy engine: tiles from global to shared memory by tensor map.
#pragma once

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/types.h"

namespace bsk::arch {

enum class CacheHint : uint64_t {
  kNormal = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
  kEvictFirst = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_FIRST),
  kEvictLast = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_LAST),
};

// PTX ISA 9.7.9: prefetch.tensormap.
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
  cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&map));
}

// PTX ISA 9.7.9: cp.async.bulk.tensor.4d. Loads the box at (column, row, head, batch); elements
// outside the tensor arrive as zeros; the barrier receives the box's full size in bytes.
__device__ __forceinline__ void load_tile(const TensorMap& map, Barrier& barrier, void* destination,
                                          int column, int row, int head, int batch,
                                          CacheHint hint) {
  cute::SM90_TMA_LOAD_4D::copy(&map, &barrier.state, static_cast<uint64_t>(hint), destination,
                               column, row, head, batch);
}

}  // namespace bsk::arch
