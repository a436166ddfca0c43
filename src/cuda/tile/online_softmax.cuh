// Softmax over scores that arrive tile by tile (Milakov and Gimelshein, arXiv 1805.02867; Dao et
// al., FlashAttention), for the fragments of a 64-row tile: each thread has two rows and shares
// each with the three other lanes of its quad.
//
// Everything is in base 2: weight = exp2(score * scale_log2 - maximum), scale_log2 = scale * log2
// e. The maximum only needs to be near: it follows the true one when that has grown by more than
// kLazyMargin, so most tiles leave O as it is. A weight is then at most 2^kLazyMargin, far from
// overflow in fp16, and the margin decides per row, so that a row's bits depend on its own scores.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"

namespace bsk::tile {

constexpr float kMinusInfinity = __builtin_bit_cast(float, 0xff800000u);
constexpr float kLazyMargin = 8.0f;  // log2
constexpr int kRowsPerThread = 2;

struct SoftmaxRows {
  float maximum[kRowsPerThread];  // in log2 units, what is subtracted; 0 while nothing was visible
  float threshold[kRowsPerThread];  // maximum + kLazyMargin; -inf while nothing was visible
  float sum[kRowsPerThread];        // of this thread's columns; the quad's when finished

  __device__ __forceinline__ void reset() {
    maximum[0] = maximum[1] = sum[0] = sum[1] = 0.0f;
    threshold[0] = threshold[1] = kMinusInfinity;
  }
  // The maximum; -inf while nothing was visible (of finished sums).
  __device__ __forceinline__ float seen_maximum(int r) const {
    return sum[r] == 0.0f ? kMinusInfinity : maximum[r];
  }
};

template <class Combine>
__device__ __forceinline__ float across_quad(float value, Combine combine) {
  value = combine(value, arch::shuffle_xor(value, 1));
  return combine(value, arch::shuffle_xor(value, 2));
}

// exp2 without the exponential unit, for x <= kLazyMargin: 2^x = 2^round(x) * p(x - round(x)), p of
// degree 3 with relative error 1e-4, below fp16's and bf16's spacing (coefficients: minimax with
// p(0) = 1, so that exp2(-inf) is exactly 0).
__device__ __forceinline__ float exp2_polynomial(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = arch::maximum(x, -127.0f);
  const float rounded = x + kRound;
  const float fraction = x - (rounded - kRound);
  float p = arch::fused_multiply_add(0.05550411f, fraction, 0.24022651f);
  p = arch::fused_multiply_add(p, fraction, 0.69314718f);
  p = arch::fused_multiply_add(p, fraction, 1.0f);
  return arch::bits_float(arch::float_bits(p) + (arch::float_bits(rounded) << 23));
}

// Raises the rows' maxima to those of a tile where they have grown by more than the margin, and
// leaves in `correction` the factor by which earlier weights (and O) must be multiplied. False, and
// no correction, where no row of the warp has: then nothing is exchanged between lanes.
template <int kGroups>
__device__ __forceinline__ bool update_maximum(const float (&scores)[4 * kGroups], float scale_log2,
                                               SoftmaxRows& rows,
                                               float (&correction)[kRowsPerThread]) {
  float highest[kRowsPerThread];
  bool grown = false;
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    float chains[2] = {scores[2 * r], scores[2 * r + 1]};
#pragma unroll
    for (int j = 1; j < kGroups; ++j) {
      chains[0] = arch::maximum(chains[0], scores[4 * j + 2 * r]);
      chains[1] = arch::maximum(chains[1], scores[4 * j + 2 * r + 1]);
    }
    highest[r] = scale_log2 * arch::maximum(chains[0], chains[1]);
    grown = grown || !(highest[r] <= rows.threshold[r]);  // also where it is NaN
  }
  if (!arch::warp_any(grown)) return false;
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const float now = across_quad(highest[r], [](float a, float b) { return arch::maximum(a, b); });
    correction[r] = 1.0f;
    if (!(now <= rows.threshold[r])) {
      correction[r] =
          rows.threshold[r] == kMinusInfinity ? 0.0f : arch::exp2_approx(rows.maximum[r] - now);
      rows.maximum[r] = now;
      rows.threshold[r] = now + kLazyMargin;
      rows.sum[r] *= correction[r];
    }
  }
  return true;
}

// Turns scores into weights in place and adds them to the rows' sums. kPolynomialQuarters of every
// four columns take the polynomial instead of the exponential unit: always the same ones.
// `near_end(x, scale_log2)` is called when three quarters are done, on which x depends; it returns
// scale_log2 for the rest.
template <int kGroups, int kPolynomialQuarters, class NearEnd>
__device__ __forceinline__ void exponentiate(float (&scores)[4 * kGroups], float scale_log2,
                                             SoftmaxRows& rows, NearEnd near_end) {
  float sums[2 * kRowsPerThread] = {};
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& score = scores[4 * j + i];
      const float exponent = arch::fused_multiply_add(score, scale_log2, -rows.maximum[i / 2]);
      const bool polynomial = j % 2 * 2 + i % 2 >= 4 - kPolynomialQuarters;
      score = polynomial ? exp2_polynomial(exponent) : arch::exp2_approx(exponent);
      sums[i] += score;
    }
    if (j == kGroups * 3 / 4 - 1) {
      scale_log2 = near_end((sums[0] + sums[1]) + (sums[2] + sums[3]), scale_log2);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) rows.sum[r] += sums[2 * r] + sums[2 * r + 1];
}

template <int kGroups, int kPolynomialQuarters>
__device__ __forceinline__ void exponentiate(float (&scores)[4 * kGroups], float scale_log2,
                                             SoftmaxRows& rows) {
  exponentiate<kGroups, kPolynomialQuarters>(scores, scale_log2, rows,
                                             [](float, float scale) { return scale; });
}

// Multiplies O's rows by `correction`.
template <int kCount>
__device__ __forceinline__ void rescale(float (&o)[kCount],
                                        const float (&correction)[kRowsPerThread]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) o[i] *= correction[i % 4 / 2];
}

// Completes the sums over the quad.
__device__ __forceinline__ void finish_sums(SoftmaxRows& rows) {
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    rows.sum[r] = across_quad(rows.sum[r], [](float a, float b) { return a + b; });
  }
}

// What a part of a row computed over some keys, and one over others, are multiplied by.
struct Factors {
  float first, second;
  __device__ __forceinline__ float apply(float a, float b) const {
    return arch::fused_multiply_add(b, second, a * first);
  }
};

// Adds the statistics of the second part to those of the first; a maximum is -inf where nothing was
// visible.
__device__ __forceinline__ Factors combine(float& maximum, float& sum, float second_maximum,
                                           float second_sum) {
  const float now = arch::maximum(maximum, second_maximum);
  const float subtract = now == kMinusInfinity ? 0.0f : now;
  const Factors factors = {arch::exp2_approx(maximum - subtract),
                           arch::exp2_approx(second_maximum - subtract)};
  maximum = now;
  sum = factors.apply(sum, second_sum);
  return factors;
}

// Natural log of the sum of exponentials of a row; -inf where nothing was visible.
__device__ __forceinline__ float log_sum_exp(float maximum_log2, float sum) {
  constexpr float kLn2 = 0.693147180559945f;
  return sum == 0.0f ? kMinusInfinity : (maximum_log2 + arch::log2_approx(sum)) * kLn2;
}

// Weights as the A operand of the second product, in pairs: the accumulator's layout is A's.
template <arch::Element kElement, int kCount>
__device__ __forceinline__ void pack_weights(const float (&weights)[kCount],
                                             uint32_t (&packed)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    packed[i] = arch::pack<kElement>(weights[2 * i], weights[2 * i + 1]);
  }
}

}  // namespace bsk::tile
