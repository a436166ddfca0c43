// A position in a ring of shared-memory stages. Producer and consumers walk the same sequence; the
// parity flips once per lap.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
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

// Of one stage: the compiler need not find out that it is always the same.
template <>
struct RingPosition<1> {
  static constexpr int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() { parity ^= 1; }
};

// Of a ring whose length is known when the kernel runs.
struct RunTimeRingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Of one who waits for stages to become free: at first they are.
template <int kStages>
__device__ __forceinline__ RingPosition<kStages> first_free() {
  RingPosition<kStages> position;
  position.parity = 1;
  return position;
}

// Waits until the stage at `ring` is ready, and goes on to the next; which stage that was.
template <int kStages>
__device__ __forceinline__ int wait_stage(arch::Barrier (&ready)[kStages],
                                          RingPosition<kStages>& ring) {
  const int stage = ring.stage;
  arch::barrier_wait(ready[stage], ring.parity);
  ring.advance();
  return stage;
}
// The same of a ring of so many stages, which its array has at least.
__device__ __forceinline__ int wait_stage(arch::Barrier* ready, RunTimeRingPosition& ring,
                                          int stages) {
  const int stage = ring.stage;
  arch::barrier_wait(ready[stage], ring.parity);
  ring.advance(stages);
  return stage;
}
// The same, unless `known` tells that it is (arch::barrier_test).
template <int kStages>
__device__ __forceinline__ int wait_stage_unless(bool known, arch::Barrier (&ready)[kStages],
                                                 RingPosition<kStages>& ring) {
  const int stage = ring.stage;
  arch::barrier_wait_unless(known, ready[stage], ring.parity);
  ring.advance();
  return stage;
}

}  // namespace bsk::tile
