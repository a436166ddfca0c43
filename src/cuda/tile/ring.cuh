// A position in a ring of shared-memory stages. Producer and consumers walk the same sequence; the
// parity flips once per lap.
#pragma once

#include "src/cuda/arch/types.h"

namespace bsk::tile {

template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace bsk::tile
