// The smallest kernel of the form that the engine compiles: in a tenth of a second.
#pragma once

#include "src/cuda/vehicle/config.h"

#ifndef BSK_DEBUG_CHECKS
#error "the engine defines BSK_DEBUG_CHECKS as 0 or 1"
#endif

namespace vehicle {

template <class Config>
__device__ void scale(const typename Config::Params& params) {
#if BSK_DEBUG_CHECKS
  if (params.elements <= 0) __trap();
#endif
  for (int i = threadIdx.x; i < params.elements; i += Config::kThreads) {
    params.output[i] *= params.scale;
  }
}

}  // namespace vehicle
