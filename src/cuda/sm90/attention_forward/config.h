// The static facts of the throughput kernel, readable on the host. DESIGN.md explains them.
#pragma once

#include "src/cuda/arch/types.h"
#include "src/cuda/tile/params.h"

namespace bsk::sm90::attention_forward {

// What the kernel reads; one struct for all configurations. Lengths and strides in elements.
struct Params {
  arch::TensorMap q;  // [batch, q_heads, q_len, head_dim], boxes of 64 rows x 64 columns
  arch::TensorMap k;  // [batch, kv_heads, kv_len, head_dim], boxes of kBlockKeys rows x 64 columns
  arch::TensorMap v;  // [batch, kv_heads, kv_len, v_head_dim], boxes as k's
  // 0 where the tensor repeats along that dimension (its stride is 0), else 1.
  int32_t q_head_step, q_batch_step, k_head_step, k_batch_step, v_head_step, v_batch_step;

  void* out;  // [batch, q_heads, q_len, v_head_dim], rows 16-byte aligned
  int64_t out_batch_stride, out_head_stride, out_row_stride;
  float* lse;  // [batch, q_heads, q_len], natural log; null = not wanted

  int32_t q_heads, q_heads_per_kv_head, q_len, v_head_dim;
  float scale_log2;  // scale * log2(e); not used where scores are transformed
  tile::Visibility visibility;
  tile::BlockLists lists;
  tile::ScoreTransform transform;
  tile::MaskTensor mask;
  tile::Schedule schedule;
};

constexpr int kMaxSharedBytes = 227 * 1024;  // per CTA and per multiprocessor, less 1 KB a CTA

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Registers per thread by role, for setmaxnreg: 64 Ki registers of a multiprocessor, dealt out in
// warpgroups.
struct RegisterBudget {
  int at_launch, producer, consumer;
};
constexpr RegisterBudget registers_for(int consumers) {
  return consumers == 1   ? RegisterBudget{128, 40, 216}   // two CTAs per multiprocessor
         : consumers == 2 ? RegisterBudget{168, 24, 240}
                          : RegisterBudget{128, 32, 160};
}

// kHeadDim: columns of Q and K that are multiplied (a multiple of 16); kVHeadDim: columns of O (an N
// of wgmma). Both may exceed the problem's: the copy engine fills in zeros.
// kConsumers: warpgroups of 64 query rows each. kBlockKeys: keys that lie together in K and V; a
// tile of kKvTile keys is gathered from kKvTile / kBlockKeys places.
// kTransform: scores are scaled (and soft-capped) one by one, which attn_mask and scales <= 0 need.
template <arch::Element kElementValue, int kHeadDimValue, int kVHeadDimValue, int kConsumersValue,
          int kKvTileValue, int kBlockKeysValue, bool kTransformValue = false,
          tile::MaskType kMaskValue = tile::MaskType::kNone, int kPolynomialQuartersValue = 0>
struct Config {
  using Params = attention_forward::Params;

  static constexpr arch::Element kElement = kElementValue;
  static constexpr int kHeadDim = kHeadDimValue;
  static constexpr int kVHeadDim = kVHeadDimValue;
  static constexpr int kConsumers = kConsumersValue;
  static constexpr int kKvTile = kKvTileValue;
  static constexpr int kBlockKeys = kBlockKeysValue;
  static constexpr bool kTransform = kTransformValue;
  static constexpr tile::MaskType kMask = kMaskValue;
  static constexpr int kPolynomialQuarters = kPolynomialQuartersValue;

  // Roles: warpgroup 0 copies (one thread of it), warpgroups 1.. multiply.
  static constexpr int kThreads = (1 + kConsumers) * arch::kWarpgroupThreads;
  static constexpr int kMinBlocks = kConsumers == 1 ? 2 : 1;
  static constexpr RegisterBudget kRegisters = registers_for(kConsumers);

  static constexpr int kQTile = 64 * kConsumers;
  static constexpr int kBlocks = kKvTile / kBlockKeys;
  static constexpr int kQKColumns = round_up(kHeadDim, arch::kSwizzleElements);  // in storage
  static constexpr int kVColumns = round_up(kVHeadDim, arch::kSwizzleElements);
  static constexpr int kQBytes = kQTile * kQKColumns * 2;
  static constexpr int kKBytes = kKvTile * kQKColumns * 2;
  static constexpr int kVBytes = kKvTile * kVColumns * 2;
  static constexpr int kStageBytes = kKBytes > kVBytes ? kKBytes : kVBytes;
  static constexpr int kBookkeepingBytes = 2048;
  static constexpr int kStagesThatFit =
      (kMaxSharedBytes / kMinBlocks - kQBytes - kBookkeepingBytes) / kStageBytes;
  static constexpr int kStages = kStagesThatFit < 8 ? kStagesThatFit : 8;

  static_assert(kHeadDim % 16 == 0 && kHeadDim <= 256 && kVHeadDim <= 256);
  static_assert(kKvTile % 16 == 0 && kKvTile % kBlockKeys == 0 && kBlockKeys % 16 == 0);
  static_assert(kMask == tile::MaskType::kNone || kTransform, "attn_mask adds to scaled scores");
  static_assert(kStages >= 3, "K of the next tile arrives while K and V of this one are read");
  static_assert(kMinBlocks * (kRegisters.producer + kConsumers * kRegisters.consumer) * 128 <=
                64 * 1024);
  // Scores, packed weights and O of a thread, and 40 registers for the rest.
  static_assert(kKvTile / 2 + kKvTile / 4 + kVHeadDim / 2 + 32 <= kRegisters.consumer);

  // The ring carries K and V tiles alternately, in the order of their use: K0 K1 V0 K2 V1 ...
  struct SharedMemory {
    alignas(1024) uint16_t q[kQBytes / 2];  // [kQKColumns / 64][kQTile][64], swizzled
    alignas(1024) uint16_t stages[kStages][kStageBytes / 2];  // [columns / 64][kKvTile][64]
    tile::TileRecord<kBlocks> records[kStages];  // where the stage holds K
    int32_t task_has_tiles;
    arch::Barrier q_ready, q_free;
    arch::Barrier stage_ready[kStages], stage_free[kStages];
  };
  static constexpr int kSharedBytes = sizeof(SharedMemory);
  static_assert(kMinBlocks * (kSharedBytes + 1024) <= 228 * 1024);
};

}  // namespace bsk::sm90::attention_forward
