// The emulated instructions of src/cuda/arch/barrier.cuh.
#pragma once

#include "src/cuda/arch/types.h"
#include "tests/cuda/emulation/machine.h"

namespace bsk::arch {

inline void barrier_init(Barrier& barrier, int arrivals) {
  emulation::machine().barrier_init(&barrier.state, arrivals);
}
inline void barrier_arrive(Barrier& barrier) {
  emulation::machine().barrier_arrive(&barrier.state, 0);
}
inline void barrier_arrive_if(Barrier& barrier, bool arrives) {
  if (arrives) barrier_arrive(barrier);
}
inline void barrier_arrive_after(Barrier& barrier, bool arrives, float) {
  barrier_arrive_if(barrier, arrives);
}
inline void barrier_arrive_and_expect(Barrier& barrier, uint32_t bytes) {
  emulation::machine().barrier_arrive(&barrier.state, bytes);
}
inline void barrier_arrive_after_copies(Barrier& barrier) {
  emulation::machine().arrive_after_copies(&barrier.state);
}
inline void barrier_wait(Barrier& barrier, uint32_t parity) {
  emulation::machine().barrier_wait(&barrier.state, parity);
}
inline bool barrier_test(Barrier& barrier, uint32_t parity) {
  return emulation::machine().barrier_test(&barrier.state, parity);
}
inline void barrier_wait_unless(bool completed, Barrier& barrier, uint32_t parity) {
  if (!completed) barrier_wait(barrier, parity);
}

template <int kPlace = 0>
inline void named_barrier_sync(int id, int threads) {
  emulation::machine().sync(id, threads);
}
inline void named_barrier_arrive(int id, int threads) { emulation::machine().arrive(id, threads); }
inline void named_barrier_arrive_after(int id, int threads, float) {
  named_barrier_arrive(id, threads);
}

}  // namespace bsk::arch
