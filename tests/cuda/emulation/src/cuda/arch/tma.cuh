// The emulated instructions of src/cuda/arch/tma.cuh.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "tests/cuda/emulation/machine.h"

namespace bsk::arch {

enum class CacheHint : uint64_t { kNormal, kEvictFirst, kEvictLast };

inline void prefetch_tensor_map(const TensorMap&) {}

inline void load_tile(const TensorMap& map, Barrier& barrier, void* destination, int column,
                      int row, int head, int batch, CacheHint) {
  emulation::machine().load_tile({map,
                                  &barrier.state,
                                  static_cast<std::byte*>(destination),
                                  {column, row, head, batch},
                                  0,
                                  {}});
}
inline void load_tile(const TensorMap& map, Barrier& barrier, void* destination, int column,
                      int head_of_group, int row, int kv_head, int batch, CacheHint) {
  emulation::machine().load_tile({map,
                                  &barrier.state,
                                  static_cast<std::byte*>(destination),
                                  {column, head_of_group, row, kv_head, batch},
                                  0,
                                  {}});
}

}  // namespace bsk::arch
