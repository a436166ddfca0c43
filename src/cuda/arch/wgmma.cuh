// Warpgroup matrix multiply, PTX ISA 9.7.15 (wgmma): D[64, N] (+)= A[64, 16] * B[16, N], fp32 sums.
//
// Thread t of the warpgroup holds, for lane l = t % 32 and warp w = t / 32, of D's 8-column group
// j: d[4j + i] = D[16w + l/4 + 8(i/2), 8j + 2(l%4) + i%2]. A in registers: the same rows, 16
// columns as two such groups, packed in pairs. Descriptors: src/cuda/tile/matrix_descriptor.cuh.
#pragma once

#include <cute/arch/mma_sm90_gmma.hpp>

#include "src/cuda/arch/types.h"

namespace bsk::arch {

namespace detail {

using cute::SM90::GMMA::Major;
using cute::SM90::GMMA::ScaleOut;

template <Element kElement, int kN>
struct Atoms;

#define BSK_WGMMA_ATOMS(N)                                                                   \
  template <>                                                                                \
  struct Atoms<Element::kFloat16, N> {                                                       \
    using Shared = cute::SM90::GMMA::MMA_64x##N##x16_F32F16F16_SS<Major::K, Major::K>;       \
    using Registers = cute::SM90::GMMA::MMA_64x##N##x16_F32F16F16_RS<Major::K, Major::MN>;   \
  };                                                                                         \
  template <>                                                                                \
  struct Atoms<Element::kBFloat16, N> {                                                      \
    using Shared = cute::SM90::GMMA::MMA_64x##N##x16_F32BF16BF16_SS<Major::K, Major::K>;     \
    using Registers = cute::SM90::GMMA::MMA_64x##N##x16_F32BF16BF16_RS<Major::K, Major::MN>; \
  };
BSK_WGMMA_ATOMS(32)
BSK_WGMMA_ATOMS(64)
BSK_WGMMA_ATOMS(96)
BSK_WGMMA_ATOMS(128)
BSK_WGMMA_ATOMS(192)
BSK_WGMMA_ATOMS(256)
#undef BSK_WGMMA_ATOMS

template <int... kIndex>
struct Indices {};
template <int kCount, int... kIndex>
struct MakeIndices : MakeIndices<kCount - 1, kCount - 1, kIndex...> {};
template <int... kIndex>
struct MakeIndices<0, kIndex...> {
  using Type = Indices<kIndex...>;
};

template <class Atom, int... kIndex>
__device__ __forceinline__ void fma_shared(Indices<kIndex...>, float (&d)[sizeof...(kIndex)],
                                           uint64_t a, uint64_t b, ScaleOut scale_out) {
  Atom::fma(a, b, d[kIndex]..., scale_out);
}
template <class Atom, int... kIndex>
__device__ __forceinline__ void fma_registers(Indices<kIndex...>, float (&d)[sizeof...(kIndex)],
                                              const uint32_t* a, uint64_t b, ScaleOut scale_out) {
  Atom::fma(a[0], a[1], a[2], a[3], b, d[kIndex]..., scale_out);
}

}  // namespace detail

// wgmma.fence: registers written before it may be read by the wgmma after it.
__device__ __forceinline__ void mma_fence() { cute::warpgroup_arrive(); }
// wgmma.commit_group: closes the group of the wgmma issued since the last one.
__device__ __forceinline__ void mma_commit() { cute::warpgroup_commit_batch(); }
// wgmma.wait_group: until at most `kPending` groups are unfinished.
template <int kPending>
__device__ __forceinline__ void mma_wait() {
  cute::warpgroup_wait<kPending>();
}

// A and B from shared memory, both with contiguous K (B is stored [N, K]).
template <Element kElement, int kN>
__device__ __forceinline__ void mma_shared(float (&d)[kN / 2], uint64_t a_descriptor,
                                           uint64_t b_descriptor, bool accumulate) {
  detail::fma_shared<typename detail::Atoms<kElement, kN>::Shared>(
      typename detail::MakeIndices<kN / 2>::Type{}, d, a_descriptor, b_descriptor,
      accumulate ? detail::ScaleOut::One : detail::ScaleOut::Zero);
}

// A from registers a[0..3], B from shared memory with contiguous N (stored [K, N]).
template <Element kElement, int kN>
__device__ __forceinline__ void mma_registers(float (&d)[kN / 2], const uint32_t* a,
                                              uint64_t b_descriptor, bool accumulate) {
  detail::fma_registers<typename detail::Atoms<kElement, kN>::Registers>(
      typename detail::MakeIndices<kN / 2>::Type{}, d, a, b_descriptor,
      accumulate ? detail::ScaleOut::One : detail::ScaleOut::Zero);
}

// Ties registers to this point of the program: the compiler moves no use of them across it.
template <int kCount>
__device__ __forceinline__ void mma_fence_registers(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) cute::warpgroup_fence_operand(registers[i]);
}

}  // namespace bsk::arch
