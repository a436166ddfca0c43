// A row's keys in several chains, each with a softmax of its own, walked one after the other: what
// they come to together.
#pragma once

#include "src/cuda/tile/online_softmax.cuh"

namespace bsk::tile {

// What the chains before the current one have computed.
template <int kOutputs>
struct EarlierChains {
  float o[kOutputs], maximum[kRowsPerThread], sum[kRowsPerThread];

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) o[i] = 0.0f;
    maximum[0] = maximum[1] = kMinusInfinity;
    sum[0] = sum[1] = 0.0f;
  }
  // Takes over a chain that has ended and leaves its O empty.
  __device__ __forceinline__ void add(float (&chain_o)[kOutputs], SoftmaxRows chain) {
    finish_sums(chain);
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const Factors factors = combine(maximum[r], sum[r], chain.seen_maximum(r), chain.sum[r]);
#pragma unroll
      for (int i = 2 * r; i < kOutputs; i += 4) {
#pragma unroll
        for (int c = i; c < i + 2; ++c) {
          o[c] = factors.apply(o[c], chain_o[c]);
          chain_o[c] = 0.0f;
        }
      }
    }
  }
  // Takes over the last chain; all of them together are the result.
  __device__ __forceinline__ void finish(float (&chain_o)[kOutputs], SoftmaxRows& chain) {
    add(chain_o, chain);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) chain_o[i] = o[i];
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      chain.maximum[r] = maximum[r];
      chain.sum[r] = sum[r];
    }
  }
};

}  // namespace bsk::tile
