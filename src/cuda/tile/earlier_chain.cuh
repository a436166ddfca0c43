// A row's keys in several chains, each with a softmax of its own, walked one after the other: what
// they come to together.
#pragma once

#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/online_softmax.cuh"

namespace bsk::tile {

// What the chain before the current one has computed. It waits in shared memory: the loop over the
// keys has no registers for it.
template <int kOutputs>
struct EarlierChain {
  // Floats of a thread, in units of four that lie side by side over the lanes of a warp: O, then
  // maxima and sums.
  static constexpr int kFloats = kOutputs + 2 * kRowsPerThread;
  float* parked;  // of this warp
  bool any = false;

  __device__ __forceinline__ float* slot(int first) const {
    return parked + first * arch::kWarpThreads + lane_index() * 4;
  }
  // Takes over the statistics of a chain that has ended and leaves none.
  __device__ __forceinline__ void park(SoftmaxRows& rows) {
    finish_sums(rows);
    float* const to = slot(kOutputs);
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      to[r] = rows.seen_maximum(r);
      to[kRowsPerThread + r] = rows.sum[r];
    }
    rows.reset();
  }
  // And its O.
  __device__ __forceinline__ void park(const float (&o)[kOutputs]) {
#pragma unroll
    for (int i = 0; i < kOutputs; i += 4) {
      float* const to = slot(i);
#pragma unroll
      for (int c = 0; c < 4; ++c) to[c] = o[i + c];
    }
    any = true;
  }
  // Adds it to the last chain, whose sums are finished then.
  __device__ __forceinline__ void finish(float (&o)[kOutputs], SoftmaxRows& rows) {
    finish_sums(rows);
    if (!any) return;
    const float* const statistics = slot(kOutputs);
    Factors factors[kRowsPerThread];
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      float maximum = statistics[r], sum = statistics[kRowsPerThread + r];
      factors[r] = combine(maximum, sum, rows.seen_maximum(r), rows.sum[r]);
      rows.maximum[r] = maximum;
      rows.sum[r] = sum;
    }
#pragma unroll
    for (int i = 0; i < kOutputs; i += 4) {
      const float* const from = slot(i);
#pragma unroll
      for (int c = 0; c < 4; ++c) o[i + c] = factors[c / 2].apply(from[c], o[i + c]);
    }
  }
};

}  // namespace bsk::tile
