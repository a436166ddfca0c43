// The static facts of the latency kernel, readable on the host. DESIGN.md explains them.
#pragma once

#include "src/cuda/arch/types.h"
#include "src/cuda/tile/divisor.h"
#include "src/cuda/tile/params.h"

namespace bsk::sm90::attention_forward_small {

// What the kernel reads; one struct for all configurations. Lengths and strides in elements.
struct Params {
  arch::TensorMap q;  // [batch, q_heads, q_len, head_dim], boxes of 64 rows x 64 columns
  arch::TensorMap k;  // [batch, kv_heads, kv_len, head_dim], boxes of kKvTile rows x 64 columns
  arch::TensorMap v;  // [batch, kv_heads, kv_len, v_head_dim], boxes as k's
  // 0 where the tensor repeats along that dimension (its stride is 0), else 1.
  int32_t q_head_step, q_batch_step, k_head_step, k_batch_step, v_head_step, v_batch_step;

  void* out;  // [batch, q_heads, q_len, v_head_dim], rows 16-byte aligned
  int64_t out_batch_stride, out_head_stride, out_row_stride;
  float* lse;  // [batch, q_heads, q_len], natural log; null = not wanted

  tile::Divisor q_heads, q_heads_per_kv_head;
  int32_t q_len, v_head_dim;
  tile::Divisor q_tiles;  // CTAs per head
  float scale_log2;
  tile::Visibility visibility;
};

constexpr int kMaxSharedBytes = 227 * 1024;  // per CTA

// row_groups x key_groups warpgroups: each has 64 of the CTA's query rows and every key_groups-th
// tile of keys. All keys of a CTA are resident: `tiles` tiles of kv_tile keys.
struct Shape {
  int head_dim = 0, v_head_dim = 0, row_groups = 0, key_groups = 0, kv_tile = 0, tiles = 0;

  constexpr bool operator==(const Shape&) const = default;
  constexpr int q_tile() const { return 64 * row_groups; }
  constexpr int warpgroups() const { return row_groups * key_groups; }
  constexpr int threads() const { return warpgroups() * arch::kWarpgroupThreads; }
  constexpr int q_bytes() const { return q_tile() * head_dim * 2; }
  constexpr int k_bytes() const { return kv_tile * head_dim * 2; }
  constexpr int v_bytes() const { return kv_tile * v_head_dim * 2; }
  // Every warpgroup sends all parts of its fp32 O but its own.
  constexpr int merge_bytes() const {
    return warpgroups() * (key_groups - 1) * (64 * v_head_dim / key_groups) * 4;
  }
  static constexpr int kBookkeepingBytes = 4096;  // row statistics and barriers
  constexpr int resident_bytes() const { return q_bytes() + tiles * (k_bytes() + v_bytes()); }
  // Where the merge has no room of its own it overwrites K and V, after one more synchronisation.
  constexpr bool merge_over_keys() const {
    return resident_bytes() + merge_bytes() + kBookkeepingBytes > kMaxSharedBytes;
  }
  constexpr int shared_bytes() const {
    return resident_bytes() + (merge_over_keys() ? 0 : merge_bytes()) + kBookkeepingBytes;
  }
};

template <arch::Element kElementValue, int kHeadDimValue, int kVHeadDimValue, int kRowGroupsValue,
          int kKeyGroupsValue, int kKvTileValue, int kTilesValue>
struct Config {
  using Params = attention_forward_small::Params;

  static constexpr arch::Element kElement = kElementValue;
  static constexpr int kHeadDim = kHeadDimValue;
  static constexpr int kVHeadDim = kVHeadDimValue;
  static constexpr int kRowGroups = kRowGroupsValue;
  static constexpr int kKeyGroups = kKeyGroupsValue;
  static constexpr int kKvTile = kKvTileValue;
  static constexpr int kTiles = kTilesValue;

  static constexpr Shape kShape{kHeadDim, kVHeadDim, kRowGroups, kKeyGroups, kKvTile, kTiles};
  static constexpr int kWarpgroups = kShape.warpgroups();
  static constexpr int kThreads = kShape.threads();
  static constexpr int kMinBlocks = 1;
  static constexpr int kQTile = kShape.q_tile();
  static constexpr int kQBytes = kShape.q_bytes();
  static constexpr int kKBytes = kShape.k_bytes();
  static constexpr int kVBytes = kShape.v_bytes();

  // O's fragment of a thread has two rows; with two key groups a part is one of them, with four it
  // is half the columns of one of them.
  static constexpr int kParts = kKeyGroups;
  static constexpr int kPartValues = kVHeadDim / 2 / kParts;
  static constexpr int kPartColumns = kVHeadDim / (kParts == 4 ? 2 : 1);

  static constexpr bool kMergeOverKeys = kShape.merge_over_keys();
  static_assert(!kMergeOverKeys || kShape.merge_bytes() <= kTiles * (kKBytes + kVBytes));
  static_assert(kHeadDim % 64 == 0 && kVHeadDim % 64 == 0, "whole swizzled chunks");
  static_assert(kKeyGroups == 1 || kKeyGroups == 2 || kKeyGroups == 4);
  static_assert(kPartColumns % 32 == 0, "16-byte stores exchange four groups of eight columns");
  static_assert(kTiles >= kKeyGroups);

  struct SharedMemory {
    alignas(1024) uint16_t q[kQBytes / 2];          // [kHeadDim / 64][kQTile][64], swizzled
    alignas(1024) uint16_t k[kTiles][kKBytes / 2];  // [kHeadDim / 64][kKvTile][64]
    alignas(1024) uint16_t v[kTiles][kVBytes / 2];  // [kVHeadDim / 64][kKvTile][64]
    // What a key group adds to a part of another: [row group][part][sender][values / 4][thread][4].
    alignas(16) float merge[kMergeOverKeys ? 4 : kShape.merge_bytes() / 4 + 4];
    float maximum[kKeyGroups][kQTile];
    float sum[kKeyGroups][kQTile];
    arch::Barrier q_ready;
    arch::Barrier k_ready[kTiles], v_ready[kTiles];
  };
  static constexpr int kSharedBytes = kShape.shared_bytes();
  static_assert(sizeof(SharedMemory) <= kSharedBytes);
  static_assert(kSharedBytes <= kMaxSharedBytes);
};

}  // namespace bsk::sm90::attention_forward_small
