// Which keys a tile of queries visits. Block lists are data; a dense problem is the same walk with
// computed indices.
//
// Keys are visited in blocks of kBlockKeys: consecutive ones where the problem is dense, the pieces
// of the listed blocks where a block mask says so (its full blocks first, then the partial ones).
// Blocks in which the visible range leaves nothing are skipped, so they are never loaded.
#pragma once

#include "src/cuda/tile/visible_range.cuh"

namespace bsk::tile {

// The row of the lists that a block of queries follows.
__device__ __forceinline__ int64_t row_of_list(const BlockLists& lists, int batch, int head,
                                               int q_block) {
  return static_cast<int64_t>(batch) * lists.batch_stride +
         static_cast<int64_t>(lists.heads_per_list.divide(head)) * lists.head_stride + q_block;
}

// Counts beyond the capacity and indices outside the keys break the contract, never memory.
__device__ __forceinline__ int full_blocks(const BlockLists& lists, int64_t row) {
  const int count = lists.full_counts[row];
  return count < lists.full_width ? count : lists.full_width;
}
__device__ __forceinline__ int partial_blocks(const BlockLists& lists, int64_t row) {
  if (lists.partial_counts == nullptr) return 0;
  const int count = lists.partial_counts[row];
  return count < lists.partial_width ? count : lists.partial_width;
}

template <int kBlockKeys>
class KeyBlockWalk {
 public:
  __device__ __forceinline__ KeyBlockWalk(const BlockLists& lists, const Visibility& visibility,
                                          KeyRange range, int batch, int head, int q_block)
      : lists_(lists), range_(range), kv_len_(visibility.kv_len) {
    if (lists.full_counts == nullptr) {
      next_ = range.begin / kBlockKeys;
    } else {
      row_ = row_of_list(lists, batch, head, q_block);
      remaining_full_ = full_blocks(lists, row_);
      remaining_partial_ = partial_blocks(lists, row_);
      indices_ = lists.full_indices + row_ * lists.full_width;
      prefetch();
    }
  }

  // The next block with a visible key; false at the end, with a block beyond the last key.
  __device__ __forceinline__ bool next(KeyBlock& block) {
    if (lists_.full_counts == nullptr) return next_dense(block);
    while (piece_ < pieces() || open_block()) {
      const int first_key = index_ * lists_.block_k + piece_ * kBlockKeys;
      const uint8_t* const bits = bits_ == nullptr ? nullptr : bits_ + piece_ * (kBlockKeys / 8);
      ++piece_;
      if (first_key < range_.end && first_key + kBlockKeys > range_.begin) {
        block = {first_key, bits};
        return true;
      }
    }
    block = {beyond(), nullptr};
    return false;
  }

 private:
  __device__ __forceinline__ int pieces() const {
    return opened_ ? lists_.block_k / kBlockKeys : 0;
  }
  __device__ __forceinline__ int beyond() const {
    return (kv_len_ + kBlockKeys - 1) / kBlockKeys * kBlockKeys;
  }

  __device__ __forceinline__ bool next_dense(KeyBlock& block) {
    const bool found = next_ * kBlockKeys < range_.end;
    block = {found ? next_ * kBlockKeys : beyond(), nullptr};
    ++next_;
    return found;
  }

  // Fetches the index that will be needed next, one block ahead of its use.
  __device__ __forceinline__ void prefetch() {
    if (!in_partial_ && remaining_full_ == 0) {
      in_partial_ = true;
      position_ = 0;
      indices_ = lists_.partial_indices + row_ * lists_.partial_width;
    }
    if (in_partial_ ? remaining_partial_ > 0 : remaining_full_ > 0) next_ = indices_[position_];
  }

  __device__ __forceinline__ bool open_block() {
    if (remaining_full_ == 0 && remaining_partial_ == 0) return false;
    index_ = next_;
    bits_ = nullptr;
    if (in_partial_) {
      const int64_t block_bytes = static_cast<int64_t>(lists_.block_q) * (lists_.block_k / 8);
      bits_ = lists_.partial_bits + (row_ * lists_.partial_width + position_) * block_bytes;
      --remaining_partial_;
    } else {
      --remaining_full_;
    }
    ++position_;
    piece_ = 0;
    opened_ = true;
    prefetch();
    return true;
  }

  const BlockLists& lists_;
  const KeyRange range_;
  const int kv_len_;
  int64_t row_ = 0;
  const int32_t* indices_ = nullptr;
  const uint8_t* bits_ = nullptr;
  int next_ = 0, index_ = 0, piece_ = 0, position_ = 0;
  int remaining_full_ = 0, remaining_partial_ = 0;
  bool opened_ = false, in_partial_ = false;
};

}  // namespace bsk::tile
