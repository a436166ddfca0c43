// Types that the host, the kernels and the emulator share: the element type of the matrices and the
// tensor map that a kernel takes by value.
#pragma once

#if defined(__CUDACC_RTC__)
#include <cuda/std/cstdint>
using ::cuda::std::int32_t;
using ::cuda::std::int64_t;
using ::cuda::std::uint16_t;
using ::cuda::std::uint32_t;
using ::cuda::std::uint64_t;
using ::cuda::std::uint8_t;
#else
#include <cstdint>
#endif

#include "src/cuda/host/tensor_map_data.h"

namespace bsk::arch {

enum class Element : int { kFloat16, kBFloat16 };

using TensorMap = cuda::TensorMapData;

// A barrier in shared memory (functions: barrier.cuh). It completes a phase when as many arrivals
// as `barrier_init` named and all expected bytes have come; a waiter names the phase's parity.
struct Barrier {
  uint64_t state;
};

// The bits of a NaN that the GPU never makes. What acts only if x has other bits acts after x is
// computed: ptxas moves arithmetic across barriers and branches, and only a data dependency keeps
// it in place.
constexpr uint32_t kNeverComputed = 0x7fedcba9u;

constexpr int kWarpThreads = 32;
constexpr int kWarpgroupThreads = 128;

// The bytes of one row of a tile in shared memory: what the 128-byte swizzle spans.
constexpr int kSwizzleBytes = 128;
constexpr int kSwizzleElements = kSwizzleBytes / 2;

}  // namespace bsk::arch
