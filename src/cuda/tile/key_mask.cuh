// A bool attn_mask that is the same for every query: keys that no query sees are never loaded where
// they fill a block, and one bit each where they do not.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/online_softmax.cuh"
#include "src/cuda/tile/params.h"

namespace bsk::tile {

// What one warp knows of such a mask; all lanes call together. It reads a window of keys at a time
// and keeps a bit for each: lane i has those of the window's word i.
template <int kBlockKeys>
class KeyMask {
 public:
  // `offset`: of the batch entry's and head's first element.
  __device__ __forceinline__ KeyMask(const MaskTensor& mask, int64_t offset, int kv_len)
      : row_(static_cast<const uint8_t*>(mask.data) + offset),
        stride_(mask.column_stride),
        kv_len_(kv_len) {}

  // The bits of a block of keys; lane i has those of its keys 32i to 32i + 31, other lanes zeros.
  __device__ __forceinline__ uint32_t bits_of_block(int first_key) {
    const int window = first_key & -kWindowKeys;
    if (window != window_) read(window);
    const int word = (first_key - window) / 32, lane = lane_index();
    const uint32_t bits = arch::shuffle(words_, (word + lane) % arch::kWarpThreads);
    if constexpr (kBlockKeys < 32) {
      return lane == 0 ? bits >> (first_key % 32) & ((1u << kBlockKeys) - 1) : 0;
    }
    return lane < kBlockKeys / 32 ? bits : 0;
  }

 private:
  static constexpr int kWindowWords = 8;  // in flight together
  static constexpr int kWindowKeys = 32 * kWindowWords;
  static_assert(kWindowKeys % kBlockKeys == 0);

  __device__ __forceinline__ void read(int window) {
    window_ = window;
    const int first_key = window + lane_index();
    if (stride_ == 1) {
      const uint8_t* const first = row_ + first_key;
      bool kept[kWindowWords];
#pragma unroll
      for (int i = 0; i < kWindowWords; ++i) {
        kept[i] = first_key + 32 * i < kv_len_ && first[32 * i] != 0;
      }
#pragma unroll
      for (int i = 0; i < kWindowWords; ++i) keep(i, kept[i]);
    } else {  // rare, and more addresses would not fit in the registers of a producer
#pragma unroll 1
      for (int i = 0; i < kWindowWords; ++i) {
        const int key = first_key + 32 * i;
        keep(i, key < kv_len_ && row_[key * stride_] != 0);
      }
    }
  }
  __device__ __forceinline__ void keep(int word, bool kept) {
    const uint32_t bits = arch::ballot(kept);
    if (lane_index() == word) words_ = bits;
  }

  const uint8_t* const row_;
  const int64_t stride_;
  const int kv_len_;
  int window_ = -1;
  uint32_t words_ = 0;
};

// Removes from this thread's part of a tile the keys without a bit in `words`.
template <int kKvTile>
__device__ __forceinline__ void remove_keys(float (&scores)[kKvTile / 2],
                                            const uint32_t (&words)[kKvTile / 32]) {
#pragma unroll
  for (int word = 0; word < kKvTile / 32; ++word) {
    const uint32_t bits = words[word] >> fragment_column();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if ((bits >> (8 * j + i % 2) & 1) == 0) scores[16 * word + 4 * j + i] = kMinusInfinity;
      }
    }
  }
}

}  // namespace bsk::tile
