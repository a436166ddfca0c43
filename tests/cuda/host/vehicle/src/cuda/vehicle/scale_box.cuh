// A small kernel that reaches into CUTLASS and CUDA's C++ library as the real ones do: what the
// tests of the engine compile. It loads one box by TMA, waits for it, and scales it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cutlass/arch/barrier.h>

#include <cuda/std/cstdint>
#include <cute/arch/copy_sm90_tma.hpp>

#include "src/cuda/vehicle/config.h"

namespace vehicle {

template <class Config>
__device__ void scale_box(const Params& params) {
  extern __shared__ __align__(128) char shared[];
  auto* box = reinterpret_cast<__half*>(shared);
  auto* box_ready = reinterpret_cast<cutlass::arch::ClusterTransactionBarrier*>(
      shared + params.elements * sizeof(__half));
  if (threadIdx.x == 0) {
    box_ready->init(1);
    cutlass::arch::fence_barrier_init();
    box_ready->arrive_and_expect_tx(static_cast<uint32_t>(params.elements * sizeof(__half)));
    cute::SM90_TMA_LOAD_2D::copy(&params.input, reinterpret_cast<uint64_t*>(box_ready),
                                 static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL), box,
                                 0, 0);
  }
  __syncthreads();
  box_ready->wait(0);
  for (int i = threadIdx.x; i < params.elements; i += Config::kThreads) {
    params.output[i] = __half2float(box[i]) * params.scale;
  }
}

}  // namespace vehicle
