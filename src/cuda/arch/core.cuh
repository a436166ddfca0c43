// Threads, registers and fences: one function per instruction. Kernels use this folder and no
// instruction besides, which is what lets the emulator (tests/cuda/emulation) run their source.
//
// CUTLASS's wrappers are used where their headers include none of CUDA's own (cuda_fp16.h and the
// like): those may not travel with the kernels, and not every user's machine has them.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "src/cuda/arch/types.h"

namespace bsk::arch {

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_index() { return static_cast<int>(blockIdx.x); }
__device__ __forceinline__ int block_index_y() { return static_cast<int>(blockIdx.y); }

// The dynamic shared memory of the CTA; 1024-byte aligned, as the 128-byte swizzle needs.
__device__ __forceinline__ void* shared_memory() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

// A 32-bit address in the shared window, the form that descriptors hold.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// PTX ISA 9.7.15.5.15: ldmatrix.x4. Lane l names 16 bytes of shared memory: row l % 8 of matrix l /
// 8 of 16-bit elements. It gets elements 2 (l % 4) and the next of row l / 4 of each matrix.
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&pairs)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
               : "r"(shared_address(row))
               : "memory");
}
// ldmatrix.x4.trans: elements 2 (l % 4) and the next of column l / 4.
__device__ __forceinline__ void load_matrices_transposed(const void* row, uint32_t (&pairs)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
               : "r"(shared_address(row))
               : "memory");
}

// PTX ISA 9.7.15.5.16: stmatrix.x4, the same the other way round.
__device__ __forceinline__ void store_matrices(void* row, const uint32_t (&pairs)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
      "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
      : "memory");
}

// `value`, of which the compiler knows no more than that it is in a register: constants that are
// added to it become offsets of loads and stores, not sums that are computed one by one.
__device__ __forceinline__ uint32_t in_register(uint32_t value) {
  asm("" : "+r"(value));
  return value;
}

// PTX ISA 9.7.9: cp.async.cg. Copies 16 bytes, both places 16-byte aligned, from global memory to
// an address in shared memory while the thread goes on.
__device__ __forceinline__ void copy_16_bytes(uint32_t destination, const void* source) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(destination),
               "l"(__cvta_generic_to_global(source))
               : "memory");
}
// PTX ISA 9.7.9: cp.async.wait_all: until the thread's copies of 16 bytes are done.
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// PTX ISA 9.7.13: bar.sync 0.
__device__ __forceinline__ void sync_block() { __syncthreads(); }

// PTX ISA 9.7.9: shfl.sync.bfly over the warp.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

// PTX ISA 9.7.9: shfl.sync.idx over the warp.
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

// PTX ISA 9.7.13: elect.sync: true in one lane of the warp. What the compiler sees to be one thread
// it makes no loop over lanes of, as it does around a copy of `lane == 0`.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred elected;\n"
      "elect.sync _|elected, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, elected;\n"
      "}"
      : "=r"(elected));
  return elected != 0;
}

// kCount instructions that the compiler leaves where they are. PTX ISA 9.7.19: pmevent, which only
// a profiler that counts event 1 sees.
template <int kCount>
__device__ __forceinline__ void do_nothing() {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("pmevent 1;");
}

// PTX ISA 9.7.13: vote.sync.any.
__device__ __forceinline__ bool warp_any(bool predicate) {
  return __any_sync(0xffffffffu, predicate);
}

// PTX ISA 9.7.13: vote.sync.ballot: bit i is lane i's predicate.
__device__ __forceinline__ uint32_t ballot(bool predicate) {
  return __ballot_sync(0xffffffffu, predicate);
}

// PTX ISA 9.7.13: redux.sync over the warp.
__device__ __forceinline__ uint32_t warp_sum(uint32_t value) {
  return __reduce_add_sync(0xffffffffu, value);
}
__device__ __forceinline__ uint32_t warp_minimum(uint32_t value) {
  return __reduce_min_sync(0xffffffffu, value);
}
__device__ __forceinline__ uint32_t warp_maximum(uint32_t value) {
  return __reduce_max_sync(0xffffffffu, value);
}

// PTX ISA 9.7.1: popc.b32 and clz.b32.
__device__ __forceinline__ int population_count(uint32_t bits) { return __popc(bits); }
__device__ __forceinline__ int leading_zeros(uint32_t bits) {
  return __clz(static_cast<int>(bits));
}

// PTX ISA 9.7.13: atom.shared.or.b32.
__device__ __forceinline__ void atomic_or(uint32_t& word, uint32_t bits) { atomicOr(&word, bits); }

// What `assert` does where it fails: prints the message, and every later call of the process on
// this device returns cudaErrorAssert.
__device__ __forceinline__ void fail_assertion(const char* message) {
  __assertfail(message, "blackwell_sparsek", 0, "BlockMask", sizeof(char));
}

// PTX ISA 9.7.13: bar.warp.sync.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

// PTX ISA 9.7.19: setmaxnreg; every warp of the warpgroup must execute it.
template <int kRegisters>
__device__ __forceinline__ void increase_registers() {
  cutlass::arch::warpgroup_reg_alloc<kRegisters>();
}
template <int kRegisters>
__device__ __forceinline__ void decrease_registers() {
  cutlass::arch::warpgroup_reg_dealloc<kRegisters>();
}

// PTX ISA 9.7.13: griddepcontrol.wait / .launch_dependents (programmatic dependent launch).
__device__ __forceinline__ void wait_for_previous_grid() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ __forceinline__ void let_next_grid_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// PTX ISA 9.7.13: fence.proxy.async.shared::cta. Orders this thread's ordinary shared-memory writes
// before reads by the tensor cores or the copy engine.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// PTX ISA 9.7.13: fence.mbarrier_init. Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

}  // namespace bsk::arch
