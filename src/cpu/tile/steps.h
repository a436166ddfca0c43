// Which steps of keys a tile visits, in ascending order: all of its key range, or what its row of
// the block mask lists.
#pragma once

#include "src/cpu/tile.h"
#include "src/cpu/tile/simd.h"

namespace bsk::cpu {
namespace {

struct Step {
  int64_t first_key = 0;
  uint64_t full_columns = 0;  // keys (bit = key - first_key) that no partial block decides
  int partial_count = 0;
  struct {
    int shift = 0;                  // of its first key in the step
    const uint8_t* bits = nullptr;  // of its first key, for the first query of the query block
  } partial[kStepKeys / 16];
};

// The first `count` of 64 bits.
BSK_INLINE uint64_t low_bits(int64_t count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// One of the two lists of a block-mask row, read as units: blocks, or half blocks of 128 keys.
// Entries outside [0, kv_blocks) are passed over: garbage must not make a kernel read elsewhere.
struct UnitList {
  const int32_t* indices = nullptr;
  int64_t count = 0;
  int64_t entry = 0;
  int half = 0;

  void skip_invalid(int64_t kv_blocks) {
    while (entry < count && (indices[entry] < 0 || indices[entry] >= kv_blocks)) ++entry;
  }
};

class StepWalker {
 public:
  StepWalker(const Call& call, const Tile& tile, int64_t first_key, int64_t end_key)
      : blocks_(call.blocks), first_key_(first_key), end_key_(end_key) {
    next_dense_ = first_key / kStepKeys * kStepKeys;
    if (!blocks_.present) return;
    unit_ = blocks_.block_k < kStepKeys ? blocks_.block_k : kStepKeys;
    units_per_block_ = blocks_.block_k / unit_;
    kv_blocks_ = (call.kv_len + blocks_.block_k - 1) / blocks_.block_k;
    const int64_t q_heads = call.q_heads, kv_heads = q_heads / call.group;
    const int64_t head_in_group = tile.first_row / call.q_len;
    int64_t head = 0;
    if (blocks_.heads == q_heads) {
      head = tile.kv_head * call.group + head_in_group;
    } else if (blocks_.heads == kv_heads) {
      head = tile.kv_head;
    }
    const int64_t position = tile.first_row % call.q_len;
    const int64_t row =
        ((blocks_.batch == 1 ? 0 : tile.batch) * blocks_.heads + head) * blocks_.q_blocks +
        position / blocks_.block_q;
    full_ = list_row(blocks_.full_counts, blocks_.full_indices, blocks_.full_width, row);
    if (blocks_.partial_width == 0) return;
    partial_ =
        list_row(blocks_.partial_counts, blocks_.partial_indices, blocks_.partial_width, row);
    partial_bits_ = blocks_.partial_bits + row * blocks_.partial_width * bytes_per_entry();
  }

  // Bytes between the bits of neighbouring queries.
  int64_t line_bytes() const { return blocks_.block_k / 8; }

  bool next(Step* step) { return blocks_.present ? next_listed(step) : next_dense(step); }

 private:
  int64_t bytes_per_entry() const { return blocks_.block_q * line_bytes(); }

  UnitList list_row(const int32_t* counts, const int32_t* indices, int64_t width,
                    int64_t row) const {
    UnitList list;
    list.indices = indices + row * width;
    list.count = counts[row] < width ? counts[row] : width;
    list.skip_invalid(kv_blocks_);
    return list;
  }

  bool next_dense(Step* step) {
    if (next_dense_ >= end_key_) return false;
    step->first_key = next_dense_;
    step->full_columns = ~uint64_t{0};
    step->partial_count = 0;
    next_dense_ += kStepKeys;
    return true;
  }

  int64_t unit_of(const UnitList& list) const {  // INT64_MAX at the end
    if (list.entry >= list.count) return INT64_MAX;
    return int64_t{list.indices[list.entry]} * units_per_block_ + list.half;
  }

  void advance(UnitList* list) const {
    if (++list->half < units_per_block_) return;
    list->half = 0;
    ++list->entry;
    list->skip_invalid(kv_blocks_);
  }

  // Merges the two lists; units of the same step come out together. Where a block is in both, the
  // full one counts.
  bool next_listed(Step* step) {
    const int units_per_step = kStepKeys / unit_;
    int64_t current = -1;
    step->full_columns = 0;
    step->partial_count = 0;
    for (;;) {
      const int64_t full = unit_of(full_), partial = unit_of(partial_);
      const int64_t unit = full < partial ? full : partial;
      if (unit == INT64_MAX) break;
      const int64_t at = unit / units_per_step;
      if (current >= 0 && at != current) break;
      const bool outside = at * kStepKeys >= end_key_ || at * kStepKeys + kStepKeys <= first_key_;
      if (!outside) {
        current = at;
        const int shift = static_cast<int>(unit % units_per_step) * unit_;
        if (full == unit) {
          step->full_columns |= low_bits(unit_) << shift;
        } else if (step->partial_count < units_per_step) {
          auto& entry = step->partial[step->partial_count++];
          entry.shift = shift;
          entry.bits =
              partial_bits_ + partial_.entry * bytes_per_entry() + partial_.half * unit_ / 8;
        }
      }
      if (full == unit) advance(&full_);
      if (partial == unit) advance(&partial_);
    }
    step->first_key = current * kStepKeys;
    return current >= 0;
  }

  const BlockLists& blocks_;
  int64_t first_key_, end_key_;
  int64_t next_dense_ = 0;
  int unit_ = kStepKeys;
  int units_per_block_ = 1;
  int64_t kv_blocks_ = 0;
  UnitList full_, partial_;
  const uint8_t* partial_bits_ = nullptr;
};

}  // namespace
}  // namespace bsk::cpu
