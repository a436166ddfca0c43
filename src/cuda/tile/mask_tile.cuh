// A tile of attn_mask in shared memory: 64 query rows (or one, where all are the same) by the keys
// of a tile, for each consumer.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/mask.cuh"
#include "src/cuda/tile/params.h"

namespace bsk::tile {

// As the copy engine writes it: in boxes of chunks of so many keys as fit in 128 bytes, each
// [rows][keys] and swizzled. A box has all rows of a consumer; or, where rows come in groups
// (MaskRows), every kGroup-th, and boxes of neighbouring rows lie kGroupStride apart.
template <class Config>
struct MaskTile {
  static constexpr int kGroup = Config::kMaskGroup;
  static constexpr int kElementBytes = mask_element_bytes(Config::kMask);
  static constexpr int kChunkBytes = mask_chunk_bytes(Config::kMask, Config::kBlockKeys);
  static constexpr int kChunkKeys = kChunkBytes / kElementBytes;
  static constexpr int kChunks = Config::kKvTile / kChunkKeys;
  static constexpr int kBoxRows = 64 / kGroup;
  static constexpr int kBoxBytes = kBoxRows * kChunkBytes;
  static constexpr int kGroupStride = Config::kConsumers * kChunks * kBoxBytes + kMaskGroupGap;
  static_assert(kGroup == 1 || kGroupStride / 128 % 2 == 1, "banks differ for 8 rows");

  // Where the box of the first row begins in a stage.
  static __device__ __forceinline__ int box(int consumer, int chunk) {
    return (consumer * kChunks + chunk) * kBoxBytes;
  }
  // Where byte `byte` of row `row` lies behind that: 16-byte units are exchanged by address bits
  // from bit 7 on.
  static __device__ __forceinline__ int place(int box, int row, int byte) {
    const int start = row % kGroup * kGroupStride + row / kGroup * kChunkBytes;
    const int line = kBoxBytes % 1024 == 0 ? start : box + start;
    return start + (byte ^ ((line >> 7 & (kChunkBytes / 16 - 1)) << 4));
  }
};

// Adds an additive mask to scores times `factor` and takes `subtract` from them, or removes what a
// bool mask hides. `stage`: the masks of all consumers; `row_step`: 1, or 0 where the tile has one
// row. Behind a head's last row there may be anything, the next head's in a group.
template <class Config>
__device__ __forceinline__ void apply_mask_tile(float (&scores)[Config::kKvTile / 2],
                                                const uint8_t* stage, int consumer, int row_step,
                                                float factor,
                                                const float (&subtract)[kRowsPerThread]) {
  using Tile = MaskTile<Config>;
  if constexpr (Tile::kElementBytes == 2) {
    // Four matrices of 8 rows and 8 keys at once: rows 0 and 8 of keys 0 and 8 of 16, each given to
    // the lanes as a fragment lies.
    const int lane = lane_index();
    const int row =
        (arch::thread_index() % arch::kWarpgroupThreads / arch::kWarpThreads * 16 + lane % 16) *
        row_step;
#pragma unroll
    for (int step = 0; step < Config::kKvTile / 16; ++step) {
      constexpr int kSteps = Tile::kChunkKeys / 16;
      const int box = Tile::box(consumer, step / kSteps);
      const int place = Tile::place(box, row, lane / 16 * 16);
      uint32_t pairs[4];
      arch::load_matrices(stage + box + (place ^ step % kSteps * 32), pairs);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const auto bits = static_cast<uint16_t>(pairs[i / 2] >> i % 2 * 16);
        const float value = Config::kMask == MaskType::kFloat16 ? arch::half_to_float(bits)
                                                                : arch::bfloat16_to_float(bits);
        float& score = scores[8 * step + i];
        score = arch::fused_multiply_add(
            score, factor, arch::fused_multiply_add(value, kLog2e, -subtract[i % 4 / 2]));
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int row = (fragment_row() + 8 * r) * row_step;
#pragma unroll
      for (int j = 0; j < Config::kKvTile / 8; ++j) {
        constexpr int kGroups = Tile::kChunkKeys / 8;
        const int byte = j % kGroups * 8 * Tile::kElementBytes;
        const int box = Tile::box(consumer, j / kGroups);
        const int place = Tile::place(box, row, fragment_column() * Tile::kElementBytes);
        const uint8_t* const source = stage + box + (place ^ byte / 16 * 16) + byte % 16;
        float& first = scores[4 * j + 2 * r];
        float& second = scores[4 * j + 2 * r + 1];
        if constexpr (Config::kMask == MaskType::kBool) {
          const uint16_t pair = *reinterpret_cast<const uint16_t*>(source);
          if ((pair & 0xff) == 0) first = kMinusInfinity;
          if (pair >> 8 == 0) second = kMinusInfinity;
        } else {
          uint32_t pair[2];
          arch::load_8_bytes(source, pair);
          const auto biased = [&](float score, uint32_t bits) {
            return arch::fused_multiply_add(
                score, factor,
                arch::fused_multiply_add(arch::bits_float(bits), kLog2e, -subtract[r]));
          };
          first = biased(first, pair[0]);
          second = biased(second, pair[1]);
        }
      }
    }
  }
}

}  // namespace bsk::tile
