// Which (query, key) pairs of a step are alive, as one 64-bit word per row: causal, window, block
// bits, boolean mask and the ragged tail all become bits and are ANDed. The words tell at once
// whether the step is dead (skip it), free (run it unmasked), or mixed, and in which columns.
#pragma once

#include "src/cpu/tile.h"
#include "src/cpu/tile/convert.h"
#include "src/cpu/tile/simd.h"
#include "src/cpu/tile/steps.h"
#include "src/cpu/tile/transpose.h"

namespace bsk::cpu {
namespace {

struct Rows {  // of one tile; entries past `count` repeat the last row
  int count = 0;
  int64_t head[kTileRows];       // q head
  int64_t position[kTileRows];   // in q_len
  int64_t first_key[kTileRows];  // keys that causal and window leave: [first_key, end_key)
  int64_t end_key[kTileRows];    // an empty range is [0, 0)
  const char* mask[kTileRows];   // of key 0, where the call has a mask
  int64_t first_key_of_any = 0;  // the union of the rows' ranges
  int64_t end_key_of_any = 0;
  int64_t first_key_of_all = 0;  // their intersection (empty: end <= first)
  int64_t end_key_of_all = 0;
  bool same_mask = true;  // all rows read the same mask entries
};

struct Alive {
  uint64_t rows[kTileRows];  // words of the rows, or of the columns after transpose_bits
  uint64_t any = 0;          // columns that some row sees
  uint64_t all = 0;          // columns that every row sees
};

BSK_INLINE int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : (x > high ? high : x);
}

void describe_rows(const Call& call, const Tile& tile, Rows* rows) {
  rows->count = tile.rows;
  rows->first_key_of_any = call.kv_len;
  rows->end_key_of_all = call.kv_len;
  const int64_t mask_bytes = element_bytes(call.mask_element);
  for (int r = 0; r < kTileRows; ++r) {
    const int64_t row = tile.first_row + (r < tile.rows ? r : tile.rows - 1);
    const int64_t head = tile.kv_head * call.group + row / call.q_len;
    const int64_t i = row % call.q_len;
    int64_t first = clamp(i + call.first_offset, 0, call.kv_len);
    int64_t end = clamp(i + call.last_offset + 1, 0, call.kv_len);
    if (first >= end) first = end = 0;
    rows->head[r] = head;
    rows->position[r] = i;
    rows->first_key[r] = first;
    rows->end_key[r] = end;
    if (first < end && first < rows->first_key_of_any) rows->first_key_of_any = first;
    if (end > rows->end_key_of_any) rows->end_key_of_any = end;
    if (first > rows->first_key_of_all) rows->first_key_of_all = first;
    if (end < rows->end_key_of_all) rows->end_key_of_all = end;
    if (call.mask_kind == Mask::kNone) continue;
    rows->mask[r] =
        call.mask + mask_bytes * (tile.batch * call.mask_strides.batch +
                                  head * call.mask_strides.head + i * call.mask_strides.row);
    rows->same_mask = rows->same_mask && rows->mask[r] == rows->mask[0];
  }
}

// One bit per byte: set where it is not zero.
uint64_t nonzero_bits(const char* bytes, int64_t stride, int count) {
  uint64_t bits = 0;
  int i = 0;
  if (stride == 0) return *bytes != 0 ? low_bits(count) : 0;
#if defined(__AVX512BW__)
  if (stride == 1) {
    const __m512i x = _mm512_maskz_loadu_epi8(low_bits(count), bytes);
    return _mm512_test_epi8_mask(x, x);
  }
#elif defined(__SSE2__)
  for (; stride == 1 && i + 16 <= count; i += 16) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
    const int zero = _mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_setzero_si128()));
    bits |= static_cast<uint64_t>(~zero & 0xffff) << i;
  }
#endif
  for (; i < count; ++i) bits |= static_cast<uint64_t>(bytes[i * stride] != 0) << i;
  return bits;
}

// The bits of one row in a partial block, moved to their columns of the step.
BSK_INLINE uint64_t partial_row_bits(const uint8_t* line, int keys, int shift) {
  uint64_t bits = 0;
  for (int byte = 0; byte < keys / 8; ++byte) bits |= uint64_t{line[byte]} << (8 * byte);
  return bits << shift;
}

void find_alive(const Call& call, const Rows& rows, const StepWalker& walker, const Step& step,
                Alive* alive) {
  const int64_t start = step.first_key;
  const int64_t left = call.kv_len - start;
  const int keys = left < kStepKeys ? static_cast<int>(left) : kStepKeys;
  const int64_t mask_stride = call.mask_strides.column;
  const bool bool_mask = call.mask_kind == Mask::kBool;
  uint64_t in_reach = low_bits(keys);
  if (bool_mask && rows.same_mask) {
    in_reach &= nonzero_bits(rows.mask[0] + start * mask_stride, mask_stride, keys);
  }
  const bool row_has_mask = bool_mask && !rows.same_mask;
  const bool row_has_range = start < rows.first_key_of_all || start + keys > rows.end_key_of_all;
  if (!row_has_mask && !row_has_range && step.partial_count == 0) {
    alive->any = alive->all = in_reach & step.full_columns;
    return;
  }
  const int unit =
      call.blocks.present && call.blocks.block_k < kStepKeys ? call.blocks.block_k : kStepKeys;
  alive->any = 0;
  alive->all = ~uint64_t{0};
  for (int r = 0; r < rows.count; ++r) {
    uint64_t word = step.full_columns;
    for (int p = 0; p < step.partial_count; ++p) {
      const int64_t line = rows.position[r] % call.blocks.block_q;
      word |= partial_row_bits(step.partial[p].bits + line * walker.line_bytes(), unit,
                               step.partial[p].shift);
    }
    word &= in_reach;
    if (row_has_range) {
      word &= low_bits(rows.end_key[r] - start) & ~low_bits(rows.first_key[r] - start);
    }
    if (row_has_mask && word != 0) {
      word &= nonzero_bits(rows.mask[r] + start * mask_stride, mask_stride, keys);
    }
    alive->rows[r] = word;
    alive->any |= word;
    alive->all &= word;
  }
  for (int r = rows.count; r < kTileRows; ++r) alive->rows[r] = alive->rows[rows.count - 1];
}

enum class Additive { kNothing, kPerKey, kPerPair };

// Reads a step's additive mask. kPerKey: bias[key], and columns of -inf leave `alive`. kPerPair:
// bias[key][kTileRows]; `rows_scratch` holds kTileRows rows of kStepKeys.
Additive load_additive(const Call& call, const Rows& rows, const Step& step, Alive* alive,
                       float* rows_scratch, float* bias) {
  const int64_t start = step.first_key;
  const int64_t left = call.kv_len - start;
  const int keys = left < kStepKeys ? static_cast<int>(left) : kStepKeys;
  const int64_t stride = call.mask_strides.column * element_bytes(call.mask_element);
  const int distinct = rows.same_mask ? 1 : rows.count;
  const float* row_pointers[kTileRows];
  for (int r = 0; r < kTileRows; ++r) {
    if (r >= distinct) {
      row_pointers[r] = row_pointers[distinct - 1];
      continue;
    }
    const char* from = rows.mask[r] + start * stride;
    float* to = rows_scratch + r * kStepKeys;
    row_pointers[r] = to;
    if (call.mask_strides.column == 1 && call.mask_element == Element::kFloat32 &&
        keys == kStepKeys) {
      row_pointers[r] = reinterpret_cast<const float*>(from);
    } else if (call.mask_strides.column == 1) {
      convert_row(call.mask_element, from, keys, to);
    } else {
      for (int k = 0; k < keys; ++k) to[k] = load_element(call.mask_element, from + k * stride);
    }
  }
  if (rows.same_mask) {
    uint64_t removed = 0;
    bool zero = true;
    for (int k = 0; k < keys; ++k) {
      bias[k] = row_pointers[0][k];
      removed |= static_cast<uint64_t>(bias[k] == -kInf) << k;
      zero = zero && (bias[k] == 0.0f || bias[k] == -kInf);
    }
    alive->any &= ~removed;
    alive->all &= ~removed;
    return zero ? Additive::kNothing : Additive::kPerKey;
  }
  const int lanes = (rows.count + kWidth - 1) / kWidth * kWidth;
  rows_to_lanes(row_pointers, lanes, keys, bias);
  Vec largest = broadcast(-kInf);
  UintVec nonzero{};
  for (int k = 0; k < keys; ++k) {
    for (int lane = 0; lane < lanes; lane += kWidth) {
      const Vec x = load(bias + k * kTileRows + lane);
      largest = maximum(largest, x);
      nonzero |= (UintVec)(x != 0.0f);
    }
  }
  if (!any_lane((UintVec)(largest != -kInf))) alive->any = alive->all = 0;
  return any_lane(nonzero) ? Additive::kPerPair : Additive::kNothing;
}

}  // namespace
}  // namespace bsk::cpu
