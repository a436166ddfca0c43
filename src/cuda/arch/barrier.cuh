// Barriers in shared memory (with phases and transaction bytes) and the named hardware barriers.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/types.h"

namespace bsk::arch {

// PTX ISA 9.7.13.15: mbarrier.init / .arrive / .arrive.expect_tx / .try_wait.parity, at CTA scope:
// an arrival releases the thread's writes, a wait acquires those of all arrivals.
__device__ __forceinline__ void barrier_init(Barrier& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(arrivals)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier))
               : "memory");
}
__device__ __forceinline__ void barrier_arrive_and_expect(Barrier& barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
      "r"(bytes)
      : "memory");
}
// PTX ISA 9.7.13.15: cp.async.mbarrier.arrive.noinc: arrives once the thread's copies of 16 bytes
// so far are done.
__device__ __forceinline__ void barrier_arrive_after_copies(Barrier& barrier) {
  asm volatile(
      "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier))
      : "memory");
}
__device__ __forceinline__ void barrier_wait(Barrier& barrier, uint32_t parity) {
  // The thread sleeps until the phase ends or this many nanoseconds have passed, and asks again.
  constexpr uint32_t kSleepNs = 10'000'000;
  asm volatile(
      "{\n"
      ".reg .pred completed;\n"
      "ask:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 completed, [%0], %1, %2;\n"
      "@!completed bra ask;\n"
      "}" ::"r"(shared_address(&barrier)),
      "r"(parity), "r"(kSleepNs)
      : "memory");
}

// PTX ISA 9.7.13: bar.sync / bar.arrive on one of the 16 barriers of the CTA; 0 is sync_block's.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace bsk::arch
