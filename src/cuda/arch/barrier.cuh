// Barriers in shared memory (with phases and transaction bytes) and the named hardware barriers.
#pragma once

#include <cutlass/arch/barrier.h>

#include "src/cuda/arch/types.h"

namespace bsk::arch {

// PTX ISA 9.7.13.15: mbarrier.init / .arrive / .arrive.expect_tx / .try_wait.parity, at CTA scope:
// an arrival releases the thread's writes, a wait acquires those of all arrivals.
__device__ __forceinline__ void barrier_init(Barrier& barrier, int arrivals) {
  cutlass::arch::ClusterBarrier::init(&barrier.state, arrivals);
}
__device__ __forceinline__ void barrier_arrive(Barrier& barrier) {
  cutlass::arch::ClusterBarrier::arrive(&barrier.state);
}
__device__ __forceinline__ void barrier_arrive_and_expect(Barrier& barrier, uint32_t bytes) {
  cutlass::arch::ClusterTransactionBarrier::arrive_and_expect_tx(&barrier.state, bytes);
}
__device__ __forceinline__ void barrier_wait(Barrier& barrier, uint32_t parity) {
  cutlass::arch::ClusterBarrier::wait(&barrier.state, parity);
}

// PTX ISA 9.7.13: bar.sync / bar.arrive on one of the 16 barriers of the CTA; 0 is sync_block's.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace bsk::arch
