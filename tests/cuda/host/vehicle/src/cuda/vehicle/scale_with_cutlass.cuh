// A small kernel that reaches into CUTLASS and CUDA's C++ library as the real ones do: what the
// tests of the engine compile. It loads scale's elements in registers that CUTLASS fences.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include <cuda/std/cstdint>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "src/cuda/vehicle/config.h"

namespace vehicle {

template <class Config>
__device__ void scale_with_cutlass(const Params& params) {
  cutlass::arch::warpgroup_reg_dealloc<40>();
  for (cuda::std::int32_t i = threadIdx.x; i < params.elements; i += Config::kThreads) {
    float element = params.output[i];
    cute::warpgroup_fence_operand(element);
    params.output[i] = element * params.scale;
  }
}

}  // namespace vehicle
