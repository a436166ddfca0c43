// A tile of many rows: one row per SIMD lane.
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

BSK_INLINE int lanes_of_rows(const Rows& rows) {
  return (rows.count + kWidth - 1) / kWidth * kWidth;
}

void pack_lanes(const Call& call, const Tile& tile, const Rows& rows, const Scratch& scratch) {
  const int lanes = lanes_of_rows(rows);
  const float* row_pointers[kTileRows];
  for (int r = 0; r < kTileRows; ++r) {
    if (r >= rows.count) {
      row_pointers[r] = row_pointers[rows.count - 1];
      continue;
    }
    const char* from = query_row(call, tile, rows, r);
    row_pointers[r] = reinterpret_cast<const float*>(from);
    if (call.element == Element::kFloat32) continue;
    float* to = scratch.keys + r * call.head_dim;  // not in use yet
    convert_row(call.element, from, call.head_dim, to);
    row_pointers[r] = to;
  }
  rows_to_lanes(row_pointers, lanes, call.head_dim, scratch.q);
  for (int64_t d = 0; d < call.head_dim; ++d) {
    for (int lane = 0; lane < lanes; lane += kWidth) {
      float* at = scratch.q + d * kTileRows + lane;
      store(at, load(at) * call.scale);
    }
  }
}

// Softcap, additive mask and boolean rules on the scores of a step.
template <int kVectors>
void adjust_scores(const Call& call, const StepKeys& keys, int first_lane, const Scratch& scratch) {
  const float inverse_cap = call.softcap > 0.0f ? 1.0f / call.softcap : 0.0f;
  for (int i = 0; i < keys.count; ++i) {
    const int column = keys.column[i];
    const bool mixed = (keys.mixed >> column & 1) != 0;
    for (int v = 0; v < kVectors; ++v) {
      const int lane = first_lane + v * kWidth;
      float* at = scratch.scores + i * kTileRows + lane;
      Vec s = load(at);
      if (call.softcap > 0.0f) s = tanh(s * inverse_cap) * call.softcap;
      if (keys.additive == Additive::kPerKey) s += scratch.bias[column];
      if (keys.additive == Additive::kPerPair) {
        const Vec bias = load(scratch.bias + column * kTileRows + lane);
        s = select(bias == -kInf, bias, s + bias);
      }
      if (mixed) {
        const auto bits = static_cast<uint32_t>(keys.alive[column] >> lane);
        s = select(lanes_of(bits), s, broadcast(-kInf));
      }
      store(at, s);
    }
  }
}

// scores -> weights e^(score - largest), with the running maximum and sum of each lane.
template <int kVectors>
void weigh(const StepKeys& keys, int first_lane, float* scores, Softmax* softmax) {
  Vec largest[kVectors], shift[kVectors], sum[kVectors];
  scores += first_lane;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) largest[v] = load(softmax->largest + first_lane + v * kWidth);
  for (int i = 0; i < keys.count; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      largest[v] = maximum(load(scores + i * kTileRows + v * kWidth), largest[v]);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const int lane = first_lane + v * kWidth;
    // Rows that have seen no key yet: e^(-inf - 0) = 0, where -inf - -inf would be NaN.
    shift[v] = select(largest[v] == -kInf, Vec{}, largest[v]);
    store(softmax->rescale + lane, exp_nonpositive(load(softmax->largest + lane) - shift[v]));
    store(softmax->largest + lane, largest[v]);
    sum[v] = Vec{};
  }
  for (int i = 0; i < keys.count; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* at = scores + i * kTileRows + v * kWidth;
      const Vec score = load(at);
      Vec weight = exp_nonpositive(score - shift[v]);
      sum[v] += weight;
      if (keys.guarded) weight = select(score == -kInf, broadcast(-0.0f), weight);
      store(at, weight);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    float* at = softmax->sum + first_lane + v * kWidth;
    store(at, multiply_add(load(at), load(softmax->rescale + first_lane + v * kWidth), sum[v]));
  }
}

template <int kVectors>
void attend_vectors(const Call& call, const StepKeys& keys, int first_lane, const Scratch& scratch,
                    Softmax* softmax) {
  compute_scores<kVectors>(keys.key, keys.count, scratch.q + first_lane, call.head_dim,
                           scratch.scores + first_lane);
  if (call.softcap > 0.0f || keys.mixed != 0 || keys.additive != Additive::kNothing) {
    adjust_scores<kVectors>(call, keys, first_lane, scratch);
  }
  weigh<kVectors>(keys, first_lane, scratch.scores, softmax);
  const auto accumulate =
      keys.guarded ? accumulate_values<kVectors, true> : accumulate_values<kVectors, false>;
  accumulate(keys.value, call.v_head_dim, scratch.scores + first_lane, keys.count,
             softmax->rescale + first_lane, scratch.out + first_lane);
}

// `keys.alive` is transposed in place: afterwards it holds, per column, the rows that see it.
void attend_lanes(const Call& call, const StepKeys& keys, const Rows& rows, const Scratch& scratch,
                  Softmax* softmax) {
  if (keys.mixed != 0) transpose_bits(keys.alive);
  const int lanes = lanes_of_rows(rows);
  constexpr int kMaxLanes = kMaxVectors * kWidth;
  for (int first = 0; first < lanes; first += kMaxLanes) {
    const int vectors = (lanes - first < kMaxLanes ? lanes - first : kMaxLanes) / kWidth;
    if (vectors == 1) attend_vectors<1>(call, keys, first, scratch, softmax);
    if (vectors == 2) attend_vectors<2>(call, keys, first, scratch, softmax);
    if constexpr (kMaxVectors > 2) {
      if (vectors == 3) attend_vectors<3>(call, keys, first, scratch, softmax);
      if (vectors == 4) attend_vectors<4>(call, keys, first, scratch, softmax);
    }
  }
}

void write_lanes(const Call& call, const Tile& tile, const Rows& rows, const Scratch& scratch,
                 const Softmax& softmax) {
  const int lanes = lanes_of_rows(rows);
  for (int lane = 0; lane < lanes; lane += kWidth) {
    const Vec sum = load(softmax.sum + lane);
    const IntVec empty = sum == 0.0f;
    for (int64_t d = 0; d < call.v_head_dim; ++d) {
      float* at = scratch.out + d * kTileRows + lane;
      // + 0.0 turns -0.0 into 0.0: a step that adds nothing to a row must not show in its bits.
      store(at, select(empty, Vec{}, load(at) / sum + 0.0f));
    }
  }
  float* row_pointers[kTileRows];
  char* out_rows[kTileRows];
  for (int r = 0; r < rows.count; ++r) {
    out_rows[r] = out_row(call, tile, rows, r);
    row_pointers[r] = call.element == Element::kFloat32 ? reinterpret_cast<float*>(out_rows[r])
                                                        : scratch.values + r * call.v_head_dim;
  }
  lanes_to_rows(scratch.out, rows.count, call.v_head_dim, row_pointers);
  if (call.element != Element::kFloat32) {
    for (int r = 0; r < rows.count; ++r) {
      store_row(call.element, row_pointers[r], call.v_head_dim, out_rows[r]);
    }
  }
}

}  // namespace
}  // namespace bsk::cpu
