// The emulated instructions of src/cuda/arch/cluster.cuh.
#pragma once

#include <cstring>

#include "tests/cuda/emulation/machine.h"

namespace bsk::arch {

inline int cluster_rank() { return emulation::machine().rank(); }
inline void sync_cluster() { emulation::machine().sync_cluster(); }
inline void meet_cluster() { sync_cluster(); }
template <size_t kCount>
void load_from_rank(float (&values)[kCount], const float* place, int rank) {
  static_assert(kCount == 2 || kCount == 4);
  if (emulation::machine().shared_address(place) % sizeof values != 0) {
    emulation::machine().fault("a remote load is not aligned");
  }
  std::memcpy(values, emulation::machine().at_rank(place, rank), sizeof values);
}

}  // namespace bsk::arch
