// The static facts of the latency kernel, readable on the host. DESIGN.md explains them.
#pragma once

#include "src/cuda/arch/types.h"
#include "src/cuda/tile/divisor.h"
#include "src/cuda/tile/params.h"

namespace bsk::sm90::attention_forward_small {

// What the kernel reads; one struct for all configurations. Lengths and strides in elements.
struct Params {
  // What the first copies need comes first: few lines of the constant cache.
  tile::Divisor q_heads, q_heads_per_kv_head;
  int32_t q_len, v_head_dim;
  tile::Divisor q_tiles;  // of 64 rows, per head
  float scale_log2;
  tile::Visibility visibility;
  // 0 where the tensor repeats along that dimension (its stride is 0), else 1.
  int32_t q_head_step, q_batch_step, k_head_step, k_batch_step, v_head_step, v_batch_step;

  void* out;  // [batch, q_heads, q_len, v_head_dim], rows 16-byte aligned
  int64_t out_batch_stride, out_head_stride, out_row_stride;
  float* lse;  // [batch, q_heads, q_len], natural log; null = not wanted

  arch::TensorMap q;  // [batch, q_heads, q_len, head_dim], boxes of 64 rows x 64 columns
  arch::TensorMap k;  // [batch, kv_heads, kv_len, head_dim], boxes of kKvTile rows x 64 columns
  arch::TensorMap v;  // [batch, kv_heads, kv_len, v_head_dim], boxes as k's
};

constexpr int kMaxSharedBytes = 227 * 1024;  // per CTA
constexpr int kRows = 64;                    // queries of a CTA

// A CTA has 64 query rows. Its `chains` warpgroups take every chains-th tile of kv_tile keys; all
// keys, `tiles` tiles, are in shared memory at once.
struct Shape {
  int head_dim = 0, v_head_dim = 0, chains = 0, kv_tile = 0, tiles = 0;

  constexpr bool operator==(const Shape&) const = default;
  constexpr int keys() const { return kv_tile * tiles; }
  constexpr int threads() const { return chains * arch::kWarpgroupThreads; }
  constexpr int q_bytes() const { return kRows * head_dim * 2; }
  constexpr int k_bytes() const { return kv_tile * head_dim * 2; }
  constexpr int v_bytes() const { return kv_tile * v_head_dim * 2; }
  // Each warpgroup receives its part of O from all others, in fp32.
  constexpr int merge_bytes() const { return (chains - 1) * kRows * v_head_dim * 4; }
  static constexpr int kBookkeepingBytes = 4096;  // row statistics and barriers
  constexpr int shared_bytes() const {
    return q_bytes() + tiles * (k_bytes() + v_bytes()) + merge_bytes() + kBookkeepingBytes;
  }
};

template <arch::Element kElementValue, int kHeadDimValue, int kVHeadDimValue, int kChainsValue,
          int kKvTileValue, int kTilesValue>
struct Config {
  using Params = attention_forward_small::Params;

  static constexpr arch::Element kElement = kElementValue;
  static constexpr int kHeadDim = kHeadDimValue;
  static constexpr int kVHeadDim = kVHeadDimValue;
  static constexpr int kChains = kChainsValue;
  static constexpr int kKvTile = kKvTileValue;
  static constexpr int kTiles = kTilesValue;

  static constexpr Shape kShape{kHeadDim, kVHeadDim, kChains, kKvTile, kTiles};
  static constexpr int kThreads = kShape.threads();
  static constexpr int kMinBlocks = 1;
  static constexpr int kQBytes = kShape.q_bytes();
  static constexpr int kKBytes = kShape.k_bytes();
  static constexpr int kVBytes = kShape.v_bytes();

  // O's fragment of a thread has two rows; with two chains a part is one of them.
  static constexpr int kPartValues = kVHeadDim / 2 / kChains;

  static_assert(kHeadDim % 64 == 0 && kVHeadDim % 64 == 0, "whole swizzled chunks");
  static_assert(kChains == 1 || kChains == 2);
  static constexpr int kTilesPerChain = kTiles / kChains;
  static_assert(kTiles % kChains == 0 && kTilesPerChain <= 2);

  struct SharedMemory {
    alignas(1024) uint16_t q[kQBytes / 2];          // [kHeadDim / 64][kRows][64], swizzled
    alignas(1024) uint16_t k[kTiles][kKBytes / 2];  // [kHeadDim / 64][kKvTile][64]
    alignas(1024) uint16_t v[kTiles][kVBytes / 2];  // [kVHeadDim / 64][kKvTile][64]
    // What the other chains add to a part: [key group][sender][values / 4][thread][4].
    alignas(16) float merge[kShape.merge_bytes() / 4 + 4];
    float maximum[kChains][kRows];
    float sum[kChains][kRows];
    arch::Barrier q_ready;
    arch::Barrier k_ready[kTiles], v_ready[kTiles];
  };
  static constexpr int kSharedBytes = kShape.shared_bytes();
  static_assert(sizeof(SharedMemory) <= kSharedBytes);
  static_assert(kSharedBytes <= kMaxSharedBytes);
};

}  // namespace bsk::sm90::attention_forward_small
