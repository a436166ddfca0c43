// Softmax over scores that arrive tile by tile (Milakov and Gimelshein, arXiv 1805.02867; Dao et
// al., FlashAttention), for the fragments of a 64-row tile: each thread has two rows and shares
// each with the three other lanes of its quad.
//
// Everything is in base 2: weight = exp2(score * scale_log2 - maximum), scale_log2 = scale * log2
// e. The maximum only needs to be near: it follows the true one when that has grown by more than
// kLazyMargin, so most tiles leave O as it is. The margin decides per row, so that a row's bits
// depend on its own scores.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"

namespace bsk::tile {

constexpr float kMinusInfinity = __builtin_bit_cast(float, 0xff800000u);
constexpr float kInfinity = -kMinusInfinity;
constexpr int kRowsPerThread = 2;

// By how much (log2) the true maximum may exceed the one in use: what keeps a weight, at most 2 to
// this power, far from overflow as a kElement, and sums and O far from it in fp32.
template <arch::Element kElement>
constexpr float kLazyMargin = kElement == arch::Element::kFloat16 ? 15.0f : 60.0f;
template <arch::Element kElement>
constexpr float kGreatestWeight = kElement == arch::Element::kFloat16 ? 0x1p15f : 0x1p60f;

struct SoftmaxRows {
  float maximum[kRowsPerThread];  // in log2 units, what is subtracted; +inf while nothing was seen
  float sum[kRowsPerThread];      // of this thread's columns; the quad's when finished

  __device__ __forceinline__ void reset() {
    maximum[0] = maximum[1] = kInfinity;
    sum[0] = sum[1] = 0.0f;
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

// The highest of this thread's scores in each of its rows, scaled.
template <int kGroups>
__device__ __forceinline__ void row_maxima(const float (&scores)[4 * kGroups], float scale_log2,
                                           float (&highest)[kRowsPerThread]) {
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    float chains[2] = {scores[2 * r], scores[2 * r + 1]};
#pragma unroll
    for (int j = 1; j < kGroups; ++j) {
      chains[0] = arch::maximum(chains[0], scores[4 * j + 2 * r]);
      chains[1] = arch::maximum(chains[1], scores[4 * j + 2 * r + 1]);
    }
    highest[r] = scale_log2 * arch::maximum(chains[0], chains[1]);
  }
}

// Whether a row must take `highest` as its maximum. Written so that NaN must be taken, and that
// -inf is not by a row that has seen nothing.
template <arch::Element kElement>
__device__ __forceinline__ bool has_grown(float maximum, float highest) {
  return maximum == kInfinity ? !(highest == kMinusInfinity)
                              : !(highest <= maximum + kLazyMargin<kElement>);
}

// Raises the rows' maxima to those of a tile where they have grown by more than the margin, and
// leaves in `correction` the factor by which earlier weights (and O) must be multiplied.
template <arch::Element kElement>
__device__ __forceinline__ void raise_maxima(const float (&highest)[kRowsPerThread],
                                             SoftmaxRows& rows,
                                             float (&correction)[kRowsPerThread]) {
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const float now = across_quad(highest[r], [](float a, float b) { return arch::maximum(a, b); });
    correction[r] = 1.0f;
    if (has_grown<kElement>(rows.maximum[r], now)) {
      correction[r] =
          rows.maximum[r] == kInfinity ? 0.0f : arch::exp2_approx(rows.maximum[r] - now);
      // A row with a NaN has it in its sum from here on.
      rows.maximum[r] = now == now ? now : 0.0f;
      rows.sum[r] *= correction[r];
    }
  }
}

// The maxima for a tile. False, and no correction, where no row of the warp has grown: then nothing
// is exchanged between lanes.
template <arch::Element kElement, int kGroups>
__device__ __forceinline__ bool update_maxima(const float (&scores)[4 * kGroups], float scale_log2,
                                              SoftmaxRows& rows,
                                              float (&correction)[kRowsPerThread]) {
  float highest[kRowsPerThread];
  row_maxima<kGroups>(scores, scale_log2, highest);
  if (!arch::warp_any(has_grown<kElement>(rows.maximum[0], highest[0]) ||
                      has_grown<kElement>(rows.maximum[1], highest[1]))) {
    return false;
  }
  raise_maxima<kElement>(highest, rows, correction);
  return true;
}

// The maxima of a first tile all of which each row sees.
template <int kGroups>
__device__ __forceinline__ void take_maxima(const float (&scores)[4 * kGroups], float scale_log2,
                                            SoftmaxRows& rows) {
  float highest[kRowsPerThread];
  row_maxima<kGroups>(scores, scale_log2, highest);
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    rows.maximum[r] = across_quad(highest[r], [](float a, float b) { return arch::maximum(a, b); });
  }
}

// Those of a first tile, whatever of it the rows see: what update_maxima makes of rows that have
// seen nothing.
template <int kGroups>
__device__ __forceinline__ void first_maxima(const float (&scores)[4 * kGroups], float scale_log2,
                                             SoftmaxRows& rows) {
  take_maxima<kGroups>(scores, scale_log2, rows);
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const float now = rows.maximum[r];
    rows.maximum[r] = now == kMinusInfinity ? kInfinity : now == now ? now : 0.0f;
  }
}

// Whether, of maxima that have stayed what they were in the first tile, none would have been raised
// by update_maxima in a later one: no weight was greater than the margin allows, and so no thread's
// sum. Then everything computed with them has the same bits. Not looking for maxima saves a tenth
// of a tile's time.
template <arch::Element kElement>
__device__ __forceinline__ bool maxima_sufficed(const SoftmaxRows& rows) {
  constexpr float kGreatest = kGreatestWeight<kElement>;
  return rows.sum[0] <= kGreatest && rows.sum[1] <= kGreatest && rows.maximum[0] != kInfinity &&
         rows.maximum[1] != kInfinity;
}

// Sums of weights over a tile, or a part of it, by element of a group.
struct TileSums {
  float of[2 * kRowsPerThread] = {};

  // Depends on all that was added.
  __device__ __forceinline__ float all() const { return (of[0] + of[1]) + (of[2] + of[3]); }
  __device__ __forceinline__ void add_to(SoftmaxRows& rows) const {
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) rows.sum[r] += of[2 * r] + of[2 * r + 1];
  }
};

// Turns the scores of column groups [kBegin, kEnd) into weights in place, and adds them to `sums`.
template <int kBegin, int kEnd, int kGroups>
__device__ __forceinline__ void exponentiate(float (&scores)[4 * kGroups], float scale_log2,
                                             const SoftmaxRows& rows, TileSums& sums) {
#pragma unroll
  for (int j = kBegin; j < kEnd; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& score = scores[4 * j + i];
      score = arch::exp2_approx(arch::fused_multiply_add(score, scale_log2, -rows.maximum[i / 2]));
      sums.of[i] += score;
    }
  }
}

// The same of a whole tile, to the rows' sums.
template <int kGroups>
__device__ __forceinline__ void exponentiate(float (&scores)[4 * kGroups], float scale_log2,
                                             SoftmaxRows& rows) {
  TileSums sums;
  exponentiate<0, kGroups, kGroups>(scores, scale_log2, rows, sums);
  sums.add_to(rows);
}

// What a row's biased scores are less by when they come: its maximum, or 0 while nothing was seen.
__device__ __forceinline__ float subtracted(const SoftmaxRows& rows, int r) {
  return rows.maximum[r] == kInfinity ? 0.0f : rows.maximum[r];
}

// update_maxima for scores from which `subtracted` was taken already, so that one comparison of
// bits as integers, which takes three operands, finds any beyond the margin: what is below zero has
// the sign. A NaN with a sign is not found; it reaches the sum all the same.
template <arch::Element kElement, int kGroups>
__device__ __forceinline__ bool follow_maxima(float (&scores)[4 * kGroups], SoftmaxRows& rows,
                                              float (&correction)[kRowsPerThread]) {
  const auto bits = [&scores](int i) { return static_cast<int>(arch::float_bits(scores[i])); };
  int chains[2] = {bits(0), bits(1)};
#pragma unroll
  for (int i = 2; i < 4 * kGroups - 2; i += 4) {
    chains[0] = arch::highest_of(chains[0], bits(i), bits(i + 1));
    chains[1] = arch::highest_of(chains[1], bits(i + 2), bits(i + 3));
  }
  constexpr int kMarginBits = __builtin_bit_cast(int, kLazyMargin<kElement>);
  const int highest =
      arch::highest_of(arch::highest_of(chains[0], chains[1], bits(4 * kGroups - 2)),
                       bits(4 * kGroups - 1), kMarginBits);
  if (!arch::warp_any(highest != kMarginBits || rows.maximum[0] == kInfinity ||
                      rows.maximum[1] == kInfinity)) {
    return false;
  }
  float most[kRowsPerThread];
  row_maxima<kGroups>(scores, 1.0f, most);
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const float now = across_quad(most[r], [](float a, float b) { return arch::maximum(a, b); });
    const bool seen = rows.maximum[r] != kInfinity;
    correction[r] = 1.0f;
    if (seen ? !(now <= kLazyMargin<kElement>) : !(now == kMinusInfinity)) {
      const float raise = now == now ? now : 0.0f;
      correction[r] = seen ? arch::exp2_approx(-raise) : 0.0f;
      rows.maximum[r] = subtracted(rows, r) + raise;
      rows.sum[r] *= correction[r];
#pragma unroll
      for (int i = 0; i < 2 * kGroups; ++i) scores[4 * (i / 2) + 2 * r + i % 2] -= raise;
    }
  }
  return true;
}

// exponentiate for such scores.
template <int kBegin, int kEnd, int kGroups>
__device__ __forceinline__ void exponentiate_followed(float (&scores)[4 * kGroups],
                                                      TileSums& sums) {
#pragma unroll
  for (int i = 4 * kBegin; i < 4 * kEnd; ++i) {
    scores[i] = arch::exp2_approx(scores[i]);
    sums.of[i % 4] += scores[i];
  }
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
