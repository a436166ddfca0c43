// The two matrix products of a step, with queries in SIMD lanes: a score is a lane, so that softmax
// needs no reduction across lanes, and K and V are read in place, one broadcast element at a time.
//
// A lane's sum runs over head_dim (scores) or over the keys (values) in ascending order whatever
// the template arguments are: remainders change no bits.
#pragma once

#include "src/cpu/tile.h"
#include "src/cpu/tile/simd.h"

namespace bsk::cpu {
namespace {

constexpr int kRowsPerPass = 6;  // keys, or value columns, that share the loaded lanes

// A score is added up in parts of this many elements of head_dim: shorter chains round less.
constexpr int64_t kScorePart = 128;

// scores[k][lane] (+)= sum over d of keys[k][d] * q[d][lane], for kKeys keys and kVectors vectors.
template <int kKeys, int kVectors>
BSK_INLINE void score_part(const float* const* keys, const float* q, int64_t first, int64_t end,
                           float* scores) {
  Vec sum[kKeys][kVectors];
  const float* key[kKeys];
#pragma GCC unroll 8
  for (int k = 0; k < kKeys; ++k) {
    key[k] = keys[k];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[k][v] = Vec{};
  }
  for (int64_t d = first; d < end; ++d) {
    Vec lanes[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) lanes[v] = load(q + d * kTileRows + v * kWidth);
#pragma GCC unroll 8
    for (int k = 0; k < kKeys; ++k) {
      const Vec element = broadcast(key[k][d]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[k][v] = multiply_add(element, lanes[v], sum[k][v]);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kKeys; ++k) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* at = scores + k * kTileRows + v * kWidth;
      store(at, first == 0 ? sum[k][v] : load(at) + sum[k][v]);
    }
  }
}

template <int kKeys, int kVectors>
BSK_INLINE void score_pass(const float* const* keys, const float* q, int64_t head_dim,
                           float* scores) {
  for (int64_t first = 0; first < head_dim; first += kScorePart) {
    const int64_t end = head_dim - first < kScorePart ? head_dim : first + kScorePart;
    score_part<kKeys, kVectors>(keys, q, first, end, scores);
  }
}

// out[c][lane] = out[c][lane] * rescale[lane] + sum over keys of values[key][c] *
// weights[key][lane] for kColumns columns. kGuarded: a lane whose weight is -0.0 ignores the value,
// which may be NaN.
template <int kColumns, int kVectors, bool kGuarded>
BSK_INLINE void value_pass(const float* const* values, int64_t first_column, const float* weights,
                           int keys, const float* rescale, float* out) {
  Vec sum[kColumns][kVectors];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[c][v] = Vec{};
  }
  for (int k = 0; k < keys; ++k) {
    const float* value = values[k] + first_column;
    Vec weight[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weight[v] = load(weights + k * kTileRows + v * kWidth);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const Vec element = broadcast(value[c]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Vec seen =
            kGuarded ? select((IntVec)weight[v] == INT32_MIN, Vec{}, element) : element;
        sum[c][v] = multiply_add(seen, weight[v], sum[c][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const Vec factor = load(rescale + v * kWidth);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      float* at = out + (first_column + c) * kTileRows + v * kWidth;
      store(at, multiply_add(load(at), factor, sum[c][v]));
    }
  }
}

template <int kVectors>
void compute_scores(const float* const* keys, int count, const float* q, int64_t head_dim,
                    float* scores) {
  int k = 0;
  for (; k + kRowsPerPass <= count; k += kRowsPerPass) {
    score_pass<kRowsPerPass, kVectors>(keys + k, q, head_dim, scores + k * kTileRows);
  }
  const float* const* rest = keys + k;
  float* to = scores + k * kTileRows;
  switch (count - k) {
    case 1: return score_pass<1, kVectors>(rest, q, head_dim, to);
    case 2: return score_pass<2, kVectors>(rest, q, head_dim, to);
    case 3: return score_pass<3, kVectors>(rest, q, head_dim, to);
    case 4: return score_pass<4, kVectors>(rest, q, head_dim, to);
    case 5: return score_pass<5, kVectors>(rest, q, head_dim, to);
    default: return;
  }
}

template <int kVectors, bool kGuarded>
void accumulate_values(const float* const* values, int64_t columns, const float* weights, int keys,
                       const float* rescale, float* out) {
  int64_t c = 0;
  for (; c + kRowsPerPass <= columns; c += kRowsPerPass) {
    value_pass<kRowsPerPass, kVectors, kGuarded>(values, c, weights, keys, rescale, out);
  }
  switch (columns - c) {
    case 1: return value_pass<1, kVectors, kGuarded>(values, c, weights, keys, rescale, out);
    case 2: return value_pass<2, kVectors, kGuarded>(values, c, weights, keys, rescale, out);
    case 3: return value_pass<3, kVectors, kGuarded>(values, c, weights, keys, rescale, out);
    case 4: return value_pass<4, kVectors, kGuarded>(values, c, weights, keys, rescale, out);
    case 5: return value_pass<5, kVectors, kGuarded>(values, c, weights, keys, rescale, out);
    default: return;
  }
}

}  // namespace
}  // namespace bsk::cpu
