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
// The same where `arrives`, without a branch, when x is computed: order_after (numerics.cuh) on a
// shorter way.
__device__ __forceinline__ void barrier_arrive_after(Barrier& barrier, bool arrives, float x) {
  asm volatile(
      "{\n"
      ".reg .pred arrives, after;\n"
      "setp.ne.b32 arrives, %1, 0;\n"
      "setp.ne.and.b32 after, %2, %3, arrives;\n"
      "@after mbarrier.arrive.shared::cta.b64 _, [%0];\n"
      "}" ::"r"(shared_address(&barrier)),
      "r"(static_cast<int>(arrives)), "r"(__float_as_uint(x)), "n"(kNeverComputed)
      : "memory");
}
__device__ __forceinline__ void barrier_arrive_if(Barrier& barrier, bool arrives) {
  barrier_arrive_after(barrier, arrives, 0.0f);
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

// PTX ISA 9.7.13.15: mbarrier.test_wait.parity: whether barrier_wait would go on at once.
__device__ __forceinline__ bool barrier_test(Barrier& barrier, uint32_t parity) {
  int completed;
  asm volatile(
      "{\n"
      ".reg .pred completed;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 completed, [%1], %2;\n"
      "selp.b32 %0, 1, 0, completed;\n"
      "}"
      : "=r"(completed)
      : "r"(shared_address(&barrier)), "r"(parity)
      : "memory");
  return completed != 0;
}
// barrier_wait, unless the test has told already. Asking takes some 50 clocks even if the answer is
// there; the test's go by behind other work.
__device__ __forceinline__ void barrier_wait_unless(bool completed, Barrier& barrier,
                                                    uint32_t parity) {
  constexpr uint32_t kSleepNs = 10'000'000;
  asm volatile(
      "{\n"
      ".reg .pred completed;\n"
      "setp.ne.b32 completed, %3, 0;\n"
      "@completed bra done;\n"
      "ask:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 completed, [%0], %1, %2;\n"
      "@!completed bra ask;\n"
      "done:\n"
      "}" ::"r"(shared_address(&barrier)),
      "r"(parity), "r"(kSleepNs), "r"(static_cast<int>(completed))
      : "memory");
}

// PTX ISA 9.7.13: bar.sync / bar.arrive on one of the 16 barriers of the CTA; 0 is sync_block's.
// Two with different kPlace are not merged into one behind the branches that they are in.
template <int kPlace = 0>
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("// %2\n\tbar.sync %0, %1;" ::"r"(id), "r"(threads), "n"(kPlace) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// When x is computed.
__device__ __forceinline__ void named_barrier_arrive_after(int id, int threads, float x) {
  asm volatile(
      "{\n"
      ".reg .pred after;\n"
      "setp.ne.b32 after, %2, %3;\n"
      "@after bar.arrive %0, %1;\n"
      "}" ::"r"(id),
      "r"(threads), "r"(__float_as_uint(x)), "n"(kNeverComputed)
      : "memory");
}

}  // namespace bsk::arch
