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
// nothing. What the kernel reads; one struct for all configurations. Lengths and strides in
// elements.
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
  int32_t splits_log2;  // of the CTAs of a cluster, each with a share of the keys
  Packing packing;
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
  constexpr int qk_columns() const { return round_up(head_dim, arch::kSwizzleElements); }  // stored
  constexpr int v_columns() const { return round_up(v_head_dim, arch::kSwizzleElements); }
  constexpr int q_bytes() const { return rows * qk_columns() * 2; }
  constexpr int stage_bytes() const {
    return kv_tile * (qk_columns() > v_columns() ? qk_columns() : v_columns()) * 2;
  }
  static constexpr int kBookkeepingBytes = 1024;  // row statistics and barriers
  // Of warps, each with a ring of its own; and the stages of one.
  constexpr int groups() const { return kConsumerWarps * warp_keys() / kv_tile; }
  constexpr int stages_if(int ctas) const {
    const int room =
        kSharedPerMultiprocessor / ctas - kSharedReservedPerCta - q_bytes() - kBookkeepingBytes;
    const int most = 12 / groups(), fit = room / (groups() * stage_bytes());
    return fit < most ? fit : most;
  }
  // Registers of a thread: scores, packed weights, O, Q where a warp has its own, and the rest. 168
  // is what two CTAs of five warps leave (a scheduler of the multiprocessor has up to three of
  // these warps).
  constexpr int registers() const {
    const bool few = rows == kFewRows;
    const int keys = few ? warp_keys() : kv_tile, q = few ? head_dim / 4 : 0;
    return keys / 2 + keys / 4 + v_head_dim / 2 + q + 40;
  }
  constexpr int ctas_per_multiprocessor() const {
    return registers() <= 168 && groups() * stages_if(2) >= 4 ? 2 : 1;
  }
  constexpr int stages() const { return stages_if(ctas_per_multiprocessor()); }
  constexpr int shared_bytes() const {
    return q_bytes() + groups() * stages() * stage_bytes() + kBookkeepingBytes;
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
  static constexpr int kStages = kShape.stages();  // of a group
  static constexpr int kKBytes = kKvTile * kQKColumns * 2;
  static constexpr int kVBytes = kKvTile * kVColumns * 2;
  // A row of the partial O in shared memory: eight words more than a multiple of the 32 banks, so
  // that the 8-byte stores of four rows meet no bank twice.
  static constexpr int kPartialStride = round_up(kVHeadDim, 32) + 8;
  static constexpr int kParts = kRows == kFewRows ? kConsumerWarps : 1;
  static constexpr int kPartialBytes = kParts * kRows * kPartialStride * 4;

  static_assert(kHeadDim % 16 == 0 && kHeadDim <= 256 && kVHeadDim <= 256);
  static_assert(kRows == kManyRows || kRows == kFewRows);
  static_assert(kWarpsPerTile * kWarpKeys == kKvTile);
  static_assert(kMask == tile::MaskType::kNone || kTransform, "attn_mask adds to scaled scores");
  static_assert(kStages >= 3, "something arrives while K and V of a tile are read");
  static_assert(kPartialBytes <= kGroups * kStages * kShape.stage_bytes(),
                "O overwrites the rings");

  struct SharedMemory {
    alignas(1024) uint16_t q[kRows * kQKColumns];  // [kQKColumns / 64][kRows][64], swizzled
    alignas(1024)
        uint16_t stages[kGroups][kStages][kShape.stage_bytes() / 2];  // [columns / 64][kKvTile][64]
    // Maximum and sum of each row over this CTA's keys, and over a warp's.
    float statistics[kRows][2], warp_statistics[kParts][kFewRows][2];
    arch::Barrier q_ready;
    arch::Barrier stage_ready[kGroups][kStages], stage_free[kGroups][kStages];
  };
  static constexpr int kSharedBytes = kShape.shared_bytes();
  static_assert(sizeof(SharedMemory) <= kSharedBytes);
  static_assert(kMinBlocks * (kSharedBytes + kSharedReservedPerCta) <= kSharedPerMultiprocessor);
};

}  // namespace bsk::sm90::attention_forward_split
