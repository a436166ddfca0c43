// Attention for one tile of query rows: compiled once per instruction set, with BSK_CPU_ISA naming
// the function (attend_tile_avx512, ...). Everything but that function is internal to this file,
// and no header of the C++ library is included: see src/cpu/tile.h.
#include "src/cpu/tile.h"
#include "src/cpu/tile/convert.h"
#include "src/cpu/tile/masks.h"
#include "src/cpu/tile/math.h"
#include "src/cpu/tile/micro_kernels.h"
#include "src/cpu/tile/simd.h"
#include "src/cpu/tile/steps.h"
#include "src/cpu/tile/transpose.h"

extern "C" double log(double);

namespace bsk::cpu {
namespace {

struct Scratch {
  float* q;       // [head_dim][kTileRows], scaled
  float* keys;    // [kStepKeys][head_dim], where K must be converted
  float* out;     // [v_head_dim][kTileRows], not yet divided by the sums
  float* values;  // [kStepKeys][v_head_dim], where V must be converted
  float* scores;  // [kStepKeys][kTileRows]; weights after the exponential
  float* bias;    // [kStepKeys][kTileRows]
};

struct Softmax {  // per lane
  alignas(64) float largest[kTileRows];
  alignas(64) float sum[kTileRows];
  alignas(64) float rescale[kTileRows];  // of what older steps have added up
};

struct StepKeys {  // the keys of a step that some row sees
  int count = 0;
  uint8_t column[kStepKeys];    // in the step
  const float* key[kStepKeys];  // rows of K and V in fp32
  const float* value[kStepKeys];
  uint64_t mixed = 0;               // columns that some rows see and others don't
  const uint64_t* lanes = nullptr;  // per column: the rows that see it, where `mixed` has a bit
  Additive additive = Additive::kNothing;
  bool guarded = false;  // V holds inf or NaN that some row must not see
};

void pack_queries(const Call& call, const Tile& tile, const Rows& rows, int lanes,
                  const Scratch& scratch) {
  const float* row_pointers[kTileRows];
  for (int r = 0; r < kTileRows; ++r) {
    if (r >= rows.count) {
      row_pointers[r] = row_pointers[rows.count - 1];
      continue;
    }
    const Strides& s = call.q_strides;
    const char* from =
        call.q + element_bytes(call.element) *
                     (tile.batch * s.batch + rows.head[r] * s.head + rows.position[r] * s.row);
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

bool all_finite(const float* const* rows, int count, int64_t columns) {
  uint32_t special = 0;
  UintVec specials{};
  for (int i = 0; i < count; ++i) {
    int64_t c = 0;
    for (; c + kWidth <= columns; c += kWidth) {
      const UintVec exponent = (UintVec)load_unaligned(rows[i] + c) & 0x7f800000;
      specials |= (UintVec)(exponent == 0x7f800000);
    }
    for (; c < columns; ++c) special |= (bits_of(rows[i][c]) & 0x7f800000) == 0x7f800000;
  }
  return special == 0 && !any_lane(specials);
}

// Lists the keys that are alive, with their rows of K and V as fp32.
void gather_keys(const Call& call, const Tile& tile, const Step& step, Alive* alive,
                 const Scratch& scratch, StepKeys* keys) {
  const int64_t bytes = element_bytes(call.element);
  const Strides &ks = call.k_strides, &vs = call.v_strides;
  const char* k =
      call.k + bytes * (tile.batch * ks.batch + tile.kv_head * ks.head + step.first_key * ks.row);
  const char* v =
      call.v + bytes * (tile.batch * vs.batch + tile.kv_head * vs.head + step.first_key * vs.row);
  keys->count = 0;
  for (uint64_t left = alive->any; left != 0; left &= left - 1) {
    const int column = __builtin_ctzll(left), i = keys->count++;
    keys->column[i] = static_cast<uint8_t>(column);
    const char* key = k + column * ks.row * bytes;
    const char* value = v + column * vs.row * bytes;
    keys->key[i] = reinterpret_cast<const float*>(key);
    keys->value[i] = reinterpret_cast<const float*>(value);
    if (call.element == Element::kFloat32) continue;
    convert_row(call.element, key, call.head_dim, scratch.keys + i * call.head_dim);
    convert_row(call.element, value, call.v_head_dim, scratch.values + i * call.v_head_dim);
    keys->key[i] = scratch.keys + i * call.head_dim;
    keys->value[i] = scratch.values + i * call.v_head_dim;
  }
  keys->mixed = alive->any & ~alive->all;
  if (keys->mixed != 0) {
    transpose_bits(alive->rows);
    keys->lanes = alive->rows;
  }
  const bool rows_differ = keys->mixed != 0 || keys->additive == Additive::kPerPair;
  keys->guarded = rows_differ && !all_finite(keys->value, keys->count, call.v_head_dim);
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
        const auto bits = static_cast<uint32_t>(keys.lanes[column] >> lane);
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
void attend_step(const Call& call, const StepKeys& keys, int first_lane, const Scratch& scratch,
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

void attend_step(const Call& call, const StepKeys& keys, int lanes, const Scratch& scratch,
                 Softmax* softmax) {
  constexpr int kMaxLanes = kMaxVectors * kWidth;
  for (int first = 0; first < lanes; first += kMaxLanes) {
    const int vectors = (lanes - first < kMaxLanes ? lanes - first : kMaxLanes) / kWidth;
    if (vectors == 1) attend_step<1>(call, keys, first, scratch, softmax);
    if (vectors == 2) attend_step<2>(call, keys, first, scratch, softmax);
    if constexpr (kMaxVectors > 2) {
      if (vectors == 3) attend_step<3>(call, keys, first, scratch, softmax);
      if (vectors == 4) attend_step<4>(call, keys, first, scratch, softmax);
    }
  }
}

void write_rows(const Call& call, const Tile& tile, const Rows& rows, int lanes,
                const Scratch& scratch, const Softmax& softmax) {
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
    const Strides& s = call.out_strides;
    out_rows[r] =
        call.out + element_bytes(call.element) *
                       (tile.batch * s.batch + rows.head[r] * s.head + rows.position[r] * s.row);
    row_pointers[r] = call.element == Element::kFloat32 ? reinterpret_cast<float*>(out_rows[r])
                                                        : scratch.values + r * call.v_head_dim;
  }
  lanes_to_rows(scratch.out, rows.count, call.v_head_dim, row_pointers);
  if (call.element != Element::kFloat32) {
    for (int r = 0; r < rows.count; ++r) {
      store_row(call.element, row_pointers[r], call.v_head_dim, out_rows[r]);
    }
  }
  if (call.lse == nullptr) return;
  for (int r = 0; r < rows.count; ++r) {
    const int64_t row = (tile.batch * call.q_heads + rows.head[r]) * call.q_len + rows.position[r];
    const float sum = softmax.sum[r];
    call.lse[row] = sum == 0.0f ? -kInf : static_cast<float>(softmax.largest[r] + log(double{sum}));
  }
}

}  // namespace

void BSK_CPU_ISA(const Call& call, const Tile& tile, float* memory) {
  Scratch scratch;
  scratch.q = memory;
  scratch.keys = scratch.q + kTileRows * call.head_dim;
  scratch.out = scratch.keys + kStepKeys * call.head_dim;
  scratch.values = scratch.out + kTileRows * call.v_head_dim;
  scratch.scores = scratch.values + kStepKeys * call.v_head_dim;
  scratch.bias = scratch.scores + kStepKeys * kTileRows;

  Rows rows;
  describe_rows(call, tile, &rows);
  const int lanes = (rows.count + kWidth - 1) / kWidth * kWidth;
  pack_queries(call, tile, rows, lanes, scratch);
  Softmax softmax;
  for (int lane = 0; lane < lanes; ++lane) {
    softmax.largest[lane] = -kInf;
    softmax.sum[lane] = 0.0f;
  }
  __builtin_memset(scratch.out, 0,
                   sizeof(float) * kTileRows * static_cast<size_t>(call.v_head_dim));

  StepWalker walker(call, tile, rows.first_key_of_any, rows.end_key_of_any);
  Step step;
  Alive alive;
  StepKeys keys;
  while (walker.next(&step)) {
    find_alive(call, rows, walker, step, &alive);
    keys.additive = Additive::kNothing;
    if (alive.any != 0 && call.mask_kind == Mask::kAdditive) {
      keys.additive = load_additive(call, rows, step, &alive, scratch.scores, scratch.bias);
    }
    if (alive.any == 0) continue;
    gather_keys(call, tile, step, &alive, scratch, &keys);
    attend_step(call, keys, lanes, scratch, &softmax);
  }
  write_rows(call, tile, rows, lanes, scratch, softmax);
}

}  // namespace bsk::cpu
