// The static facts of the split kernel, readable on the host. DESIGN.md explains them.
#pragma once

#include "src/cuda/arch/types.h"
#include "src/cuda/tile/params.h"

namespace bsk::sm90::attention_forward_split {

// Packed query rows of a tile: those of a warpgroup's product, or of a warp's.
constexpr int kManyRows = 64, kFewRows = 16;

// Which (head of a group, query) pairs share a tile: `heads` x `queries` <= its rows.
struct Packing {
  int32_t heads = 1, queries = 1;       // of a tile
  int32_t head_tiles = 1, q_tiles = 0;  // per KV head: 1 and more where a group has over 64 heads
};

// The grid: x = (batch entry, tile, rank in the cluster), y = KV head, so that decoding divides
// nothing. A tile's keys are split in shares, of which each CTA of the cluster computes as many.
// What the kernel reads; one struct for all configurations. Lengths and strides in elements.
struct Params {
  arch::TensorMap q;  // [batch, kv_heads, q_len, group, head_dim], boxes of queries x heads x 64
  arch::TensorMap k;  // [batch, kv_heads, kv_len, head_dim], boxes of kKvTile rows x 64 columns
  arch::TensorMap v;  // [batch, kv_heads, kv_len, v_head_dim], boxes as k's
  // 0 where the tensor repeats along that dimension (its stride is 0), else 1.
  int32_t q_head_step, q_batch_step, k_head_step, k_batch_step, v_head_step, v_batch_step;

  void* out;  // [batch, q_heads, q_len, v_head_dim], rows 16-byte aligned
  int64_t out_batch_stride, out_head_stride, out_row_stride;
  float* lse;  // [batch, q_heads, q_len], natural log; null = not wanted

  tile::Divisor q_heads, q_heads_per_kv_head;
  int32_t q_len, v_head_dim;
  int32_t splits_log2, ctas_log2;  // of the shares, of the CTAs of a cluster
  int32_t stages;                  // of a group's ring
  // Where parts of O begin (merge.cuh), of warps and of shares, in bytes from the rings' start; and
  // whether the warps' parts of all shares of a CTA have a place, or only those of one.
  int32_t warp_parts, share_parts, parts_together;
  Packing packing;
  // By the heads of a tile, by the tiles of heads, by all tiles that a KV head has.
  tile::Divisor by_heads, by_head_tiles, by_tiles;
  float scale_log2;  // scale * log2(e); not used where scores are transformed
  tile::Visibility visibility;
  tile::ScoreTransform transform;
  tile::MaskTensor mask;
};

constexpr int kSharedPerMultiprocessor = 228 * 1024;
constexpr int kSharedReservedPerCta = 1024;  // the system's

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// head_dim: columns of Q and K that are multiplied (a multiple of 16); v_head_dim: columns of O (an
// N of wgmma). Both may exceed the problem's: the copy engine fills in zeros. rows: kManyRows or
// kFewRows.
struct Shape {
  static constexpr int kConsumerWarps = 4;

  int head_dim = 0, v_head_dim = 0, kv_tile = 0, rows = kManyRows;

  constexpr bool operator==(const Shape&) const = default;
  constexpr int threads() const { return (kConsumerWarps + 1) * arch::kWarpThreads; }
  // Keys of a tile that a warp has to itself; or its part of them.
  constexpr int warp_keys() const { return rows == kFewRows ? 32 : kv_tile / kConsumerWarps; }
  // Of warps, each with a ring of its own.
  constexpr int groups() const { return kConsumerWarps * warp_keys() / kv_tile; }
  constexpr int qk_columns() const { return round_up(head_dim, arch::kSwizzleElements); }  // stored
  constexpr int v_columns() const { return round_up(v_head_dim, arch::kSwizzleElements); }
  constexpr int q_bytes() const { return rows * qk_columns() * 2; }
  constexpr int stage_bytes() const {
    return kv_tile * (qk_columns() > v_columns() ? qk_columns() : v_columns()) * 2;
  }
  // A row of a part of O in shared memory: O, maximum and sum. Eight words more than a multiple of
  // the 32 banks, so that the 8-byte stores of four rows meet no bank twice.
  constexpr int part_stride() const { return round_up(v_head_dim, 32) + 8; }
  constexpr int part_bytes(int used_rows) const { return used_rows * part_stride() * 4; }
  // Of the warps that multiply each for itself, whose parts make a share's.
  constexpr int warp_parts_bytes(int used_rows, int shares) const {
    return rows == kFewRows ? kConsumerWarps * shares * part_bytes(used_rows) : 0;
  }
  static constexpr int kLeastStages = 2;  // of a ring: K and V of a tile, where not ahead
  static constexpr int kBarriersBytes = 1024;
  // Stages of a ring if so many CTAs are on a multiprocessor, which want `extra` bytes each.
  constexpr int stages_if(int ctas, int extra = 0) const {
    const int room = kSharedPerMultiprocessor / ctas - kSharedReservedPerCta - q_bytes() -
                     kBarriersBytes - extra;
    const int fit = room / (groups() * stage_bytes());
    return fit < 12 / groups() ? fit : 12 / groups();
  }
  // Registers of a thread: scores, packed weights, O and the rest. 168 is what two CTAs of five
  // warps leave (a scheduler of the multiprocessor has up to three of these warps).
  constexpr int registers() const {
    const int keys = rows == kFewRows ? warp_keys() : kv_tile;
    return keys / 2 + keys / 4 + v_head_dim / 2 + 52;
  }
  constexpr int ctas_per_multiprocessor() const {
    return registers() <= 168 && stages_if(2) >= (groups() == 1 ? 4 : 3) ? 2 : 1;
  }
  constexpr int stages() const { return stages_if(ctas_per_multiprocessor()); }
  constexpr int shared_bytes(int stages, int extra = 0) const {
    return q_bytes() + kBarriersBytes + groups() * stages * stage_bytes() + extra;
  }
};

// kTransform: scores are scaled (and soft-capped) one by one, which attn_mask needs, and a scale
// that is no factor (scale_is_a_factor).
template <arch::Element kElementValue, int kHeadDimValue, int kVHeadDimValue, int kKvTileValue,
          int kRowsValue = kManyRows, bool kTransformValue = false,
          tile::MaskType kMaskValue = tile::MaskType::kNone>
struct Config {
  using Params = attention_forward_split::Params;

  static constexpr arch::Element kElement = kElementValue;
  static constexpr int kHeadDim = kHeadDimValue;
  static constexpr int kVHeadDim = kVHeadDimValue;
  static constexpr int kKvTile = kKvTileValue;
  static constexpr int kRows = kRowsValue;
  static constexpr bool kTransform = kTransformValue;
  static constexpr tile::MaskType kMask = kMaskValue;

  // Roles: warps 0 to 3 multiply, one thread of warp 4 copies.
  static constexpr Shape kShape{kHeadDim, kVHeadDim, kKvTile, kRows};
  static constexpr int kThreads = kShape.threads();
  static constexpr int kConsumerWarps = Shape::kConsumerWarps;
  static constexpr int kConsumerThreads = kConsumerWarps * arch::kWarpThreads;
  // A warp that multiplies for itself has kWarpKeys keys of a tile, and tiles go to kGroups groups
  // of warps in turn.
  static constexpr int kWarpKeys = kShape.warp_keys();
  static constexpr int kGroups = kShape.groups();
  static constexpr int kWarpsPerTile = kConsumerWarps / kGroups;
  // Each group's ring carries K and V tiles alternately, in the order of their use: K0 K1 V0 K2 V1
  // ... where warps multiply together, else K0 V0 K1 V1 ... (Groups that shared a ring could be two
  // laps apart, since tiles need not arrive in the order in which they were asked for; a barrier's
  // parity does not tell that.)
  static constexpr bool kKAhead = kRows == kManyRows;
  static constexpr int kMinBlocks = kShape.ctas_per_multiprocessor();
  static constexpr int kQKColumns = kShape.qk_columns();
  static constexpr int kVColumns = kShape.v_columns();
  static constexpr int kMostStages = kShape.stages();
  static constexpr int kStageElements = kShape.stage_bytes() / 2;
  static constexpr int kPartStride = kShape.part_stride();

  static_assert(kHeadDim % 16 == 0 && kHeadDim <= 256 && kVHeadDim <= 256);
  static_assert(kRows == kManyRows || kRows == kFewRows);
  static_assert(kWarpsPerTile * kWarpKeys == kKvTile);
  static_assert(kMask == tile::MaskType::kNone || kTransform, "attn_mask adds to scaled scores");
  static_assert(kShape.stages() >= 3, "something arrives while K and V of a tile are read");
  static_assert(kShape.warp_parts_bytes(kRows, 1) + kShape.part_bytes(kRows) <=
                    kGroups * kShape.stages() * kShape.stage_bytes(),
                "O overwrites the rings");

  // In front of the rings: [kGroups][Params::stages][columns / 64][kKvTile][64].
  struct SharedMemory {
    alignas(1024) uint16_t q[kRows * kQKColumns];  // [kQKColumns / 64][kRows][64], swizzled
    arch::Barrier q_ready;
    arch::Barrier stage_ready[kGroups][kMostStages], stage_free[kGroups][kMostStages];

    uint8_t* rings() { return reinterpret_cast<uint8_t*>(this + 1); }
    uint16_t* stage(int index) {
      return reinterpret_cast<uint16_t*>(rings()) + index * kStageElements;
    }
  };
  static_assert(sizeof(SharedMemory) == kShape.shared_bytes(0));
  static_assert(kMinBlocks * (kShape.shared_bytes(kShape.stages()) + kSharedReservedPerCta) <=
                kSharedPerMultiprocessor);
};

}  // namespace bsk::sm90::attention_forward_split
