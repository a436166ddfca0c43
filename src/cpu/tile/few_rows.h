// A tile of few rows (decoding): most SIMD lanes would idle with one row per lane, so keys sit in
// the lanes for the scores, and value columns for the output.
//
// Every sum runs over the same terms in the same order, with the same roundings, as in lanes.h: a
// row's bits are the same here and there.
#pragma once

#include "src/cpu/tile.h"
#include "src/cpu/tile/convert.h"
#include "src/cpu/tile/masks.h"
#include "src/cpu/tile/math.h"
#include "src/cpu/tile/micro_kernels.h"
#include "src/cpu/tile/simd.h"
#include "src/cpu/tile/state.h"
#include "src/cpu/tile/transpose.h"

namespace bsk::cpu {
namespace {

constexpr int kMaxFewRows = kWidth / 4;  // from there on lanes.h is as fast
static_assert(kMaxFewRows <= 16, "scratch_floats() has room for 16 rows of Q");
static_assert(kTileRows == kStepKeys,
              "rows_to_lanes() lays keys out with the stride of a tile's rows");

void pack_few(const Call& call, const Tile& tile, const Rows& rows, const Scratch& scratch) {
  for (int r = 0; r < rows.count; ++r) {
    float* to = scratch.q_rows + r * call.head_dim;
    convert_row(call.element, query_row(call, tile, rows, r), call.head_dim, to);
    for (int64_t d = 0; d < call.head_dim; ++d) to[d] *= call.scale;
  }
}

// scores[row][key]; entries past the last key are of no meaning.
void score_few(const Call& call, const StepKeys& keys, const Rows& rows, const Scratch& scratch) {
  constexpr int kVectors = 4;  // chains of multiply-adds at a time
  const float* key_rows[kStepKeys];
  const int padded = (keys.count + 3) / 4 * 4;
  for (int i = 0; i < padded; ++i) key_rows[i] = keys.key[i < keys.count ? i : keys.count - 1];
  rows_to_lanes(key_rows, padded, call.head_dim, scratch.q);
  for (int r = 0; r < rows.count; ++r) {
    const float* q = scratch.q_rows + r * call.head_dim;
    for (int first = 0; first < keys.count; first += kVectors * kWidth) {
      Vec total[kVectors] = {}, sum[kVectors] = {};
      for (int64_t d = 0; d < call.head_dim; ++d) {
        if (d > 0 && d % kScorePart == 0) {
          for (int v = 0; v < kVectors; ++v) {
            total[v] = d == kScorePart ? sum[v] : total[v] + sum[v];
            sum[v] = Vec{};
          }
        }
        const Vec element = broadcast(q[d]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const Vec key = load(scratch.q + d * kStepKeys + first + v * kWidth);
          sum[v] = multiply_add(key, element, sum[v]);
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        store(scratch.scores + r * kStepKeys + first + v * kWidth,
              call.head_dim > kScorePart ? total[v] + sum[v] : sum[v]);
      }
    }
  }
}

// Softcap, additive mask and boolean rules on one row of scores.
void adjust_few(const Call& call, const StepKeys& keys, int r, const Scratch& scratch) {
  float* scores = scratch.scores + r * kStepKeys;
  if (call.softcap > 0.0f) {
    const float inverse_cap = 1.0f / call.softcap;
    for (int i = 0; i < keys.count; i += kWidth) {
      store(scores + i, tanh(load(scores + i) * inverse_cap) * call.softcap);
    }
  }
  for (int i = 0; i < keys.count; ++i) {
    const int column = keys.column[i];
    if (keys.additive == Additive::kPerKey) scores[i] += scratch.bias[column];
    if (keys.additive == Additive::kPerPair) {
      const float bias = scratch.bias[column * kTileRows + r];
      scores[i] = bias == -kInf ? bias : scores[i] + bias;
    }
    if ((keys.mixed >> column & 1) != 0 && (keys.alive[r] >> column & 1) == 0) scores[i] = -kInf;
  }
}

// One row of scores -> weights e^(score - largest), with the row's running maximum and sum.
void weigh_few(const StepKeys& keys, int r, float* scores, Softmax* softmax) {
  float largest = softmax->largest[r];
  for (int i = 0; i < keys.count; ++i) largest = scores[i] > largest ? scores[i] : largest;
  const float shift = largest == -kInf ? 0.0f : largest;
  softmax->rescale[r] = exp_nonpositive(broadcast(softmax->largest[r] - shift))[0];
  softmax->largest[r] = largest;
  for (int i = 0; i < keys.count; i += kWidth) {
    const Vec score = load(scores + i);
    Vec weight = exp_nonpositive(score - shift);
    if (keys.guarded) weight = select(score == -kInf, broadcast(-0.0f), weight);
    store(scores + i, weight);
  }
  float sum = 0.0f;
  for (int i = 0; i < keys.count; ++i) sum += scores[i];
  softmax->sum[r] = multiply_add(softmax->sum[r], softmax->rescale[r], sum);
}

// out[column] = out[column] * rescale + sum over keys of weights[key] * values[key][column].
template <int kVectors>
BSK_INLINE void value_columns(const StepKeys& keys, const float* weights, int64_t first_column,
                              float rescale, float* out) {
  Vec sum[kVectors] = {};
  for (int i = 0; i < keys.count; ++i) {
    if (keys.guarded && bits_of(weights[i]) == 0x80000000) continue;
    const Vec weight = broadcast(weights[i]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec value = load_unaligned(keys.value[i] + first_column + v * kWidth);
      sum[v] = multiply_add(value, weight, sum[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    float* at = out + first_column + v * kWidth;
    store_unaligned(at, multiply_add(load_unaligned(at), broadcast(rescale), sum[v]));
  }
}

void accumulate_few(const Call& call, const StepKeys& keys, const float* weights, float rescale,
                    float* out) {
  const int64_t columns = call.v_head_dim;
  int64_t c = 0;
  for (; c + 4 * kWidth <= columns; c += 4 * kWidth) {
    value_columns<4>(keys, weights, c, rescale, out);
  }
  for (; c + kWidth <= columns; c += kWidth) value_columns<1>(keys, weights, c, rescale, out);
  for (; c < columns; ++c) {
    float sum = 0.0f;
    for (int i = 0; i < keys.count; ++i) {
      if (keys.guarded && bits_of(weights[i]) == 0x80000000) continue;
      sum = multiply_add(keys.value[i][c], weights[i], sum);
    }
    out[c] = multiply_add(out[c], rescale, sum);
  }
}

void attend_few(const Call& call, const StepKeys& keys, const Rows& rows, const Scratch& scratch,
                Softmax* softmax) {
  score_few(call, keys, rows, scratch);
  for (int r = 0; r < rows.count; ++r) {
    float* scores = scratch.scores + r * kStepKeys;
    if (call.softcap > 0.0f || keys.mixed != 0 || keys.additive != Additive::kNothing) {
      adjust_few(call, keys, r, scratch);
    }
    weigh_few(keys, r, scores, softmax);
    accumulate_few(call, keys, scores, softmax->rescale[r], scratch.out + r * call.v_head_dim);
  }
}

void write_few(const Call& call, const Tile& tile, const Rows& rows, const Scratch& scratch,
               const Softmax& softmax) {
  for (int r = 0; r < rows.count; ++r) {
    float* row = scratch.out + r * call.v_head_dim;
    const float sum = softmax.sum[r];
    for (int64_t d = 0; d < call.v_head_dim; ++d) row[d] = sum == 0.0f ? 0.0f : row[d] / sum + 0.0f;
    store_row(call.element, row, call.v_head_dim, out_row(call, tile, rows, r));
  }
}

}  // namespace
}  // namespace bsk::cpu
