// What a tile holds while it walks its keys, and how a step's keys come in and finished rows go
// out.
#pragma once

#include "src/cpu/tile.h"
#include "src/cpu/tile/convert.h"
#include "src/cpu/tile/masks.h"
#include "src/cpu/tile/simd.h"

extern "C" double log(double);

namespace bsk::cpu {
namespace {

struct Scratch {
  float* q;       // lanes.h: [head_dim][kTileRows], scaled; few_rows.h: K^T, [head_dim][kStepKeys]
  float* keys;    // [kStepKeys][head_dim], where K must be converted
  float* out;     // [v_head_dim][kTileRows] or [row][v_head_dim], not yet divided by the sums
  float* values;  // [kStepKeys][v_head_dim], where V must be converted
  float* scores;  // [kStepKeys][kTileRows] or [row][kStepKeys]; weights after the exponential
  float* bias;    // [kStepKeys][kTileRows], or [kStepKeys] where it is the same for all rows
  float* q_rows;  // few_rows.h: [row][head_dim], scaled
};

struct Softmax {  // per row
  alignas(64) float largest[kTileRows];
  alignas(64) float sum[kTileRows];
  alignas(64) float rescale[kTileRows];  // of what older steps have added up
};

struct StepKeys {  // the keys of a step that some row sees
  int count = 0;
  uint8_t column[kStepKeys];    // in the step
  const float* key[kStepKeys];  // rows of K and V in fp32
  const float* value[kStepKeys];
  uint64_t mixed = 0;         // columns that some rows see and others don't
  uint64_t* alive = nullptr;  // per row: the columns it sees, where `mixed` has a bit
  Additive additive = Additive::kNothing;
  bool guarded = false;  // V holds inf or NaN that some row must not see
};

BSK_INLINE Scratch split_scratch(const Call& call, float* memory) {
  Scratch scratch;
  scratch.q = memory;
  scratch.keys = scratch.q + kTileRows * call.head_dim;
  scratch.out = scratch.keys + kStepKeys * call.head_dim;
  scratch.values = scratch.out + kTileRows * call.v_head_dim;
  scratch.scores = scratch.values + kStepKeys * call.v_head_dim;
  scratch.bias = scratch.scores + kStepKeys * kTileRows;
  scratch.q_rows = scratch.bias + kStepKeys * kTileRows;
  return scratch;
}

BSK_INLINE const char* query_row(const Call& call, const Tile& tile, const Rows& rows, int r) {
  const Strides& s = call.q_strides;
  return call.q + element_bytes(call.element) *
                      (tile.batch * s.batch + rows.head[r] * s.head + rows.position[r] * s.row);
}

BSK_INLINE char* out_row(const Call& call, const Tile& tile, const Rows& rows, int r) {
  const Strides& s = call.out_strides;
  return call.out + element_bytes(call.element) *
                        (tile.batch * s.batch + rows.head[r] * s.head + rows.position[r] * s.row);
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
  keys->alive = alive->rows;
  const bool rows_differ = keys->mixed != 0 || keys->additive == Additive::kPerPair;
  keys->guarded = rows_differ && !all_finite(keys->value, keys->count, call.v_head_dim);
}

void write_lse(const Call& call, const Tile& tile, const Rows& rows, const Softmax& softmax) {
  if (call.lse == nullptr) return;
  for (int r = 0; r < rows.count; ++r) {
    const int64_t row = (tile.batch * call.q_heads + rows.head[r]) * call.q_len + rows.position[r];
    const float sum = softmax.sum[r];
    call.lse[row] = sum == 0.0f ? -kInf : static_cast<float>(softmax.largest[r] + log(double{sum}));
  }
}

}  // namespace
}  // namespace bsk::cpu
