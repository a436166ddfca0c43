// A tile of attn_mask in shared memory: 64 query rows (or one, where all are the same) by the keys
// of a tile, as the copy engine writes it: chunks of so many keys as fit in 128 bytes, one after
// the other, each [64][keys] and swizzled.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/mask.cuh"
#include "src/cuda/tile/params.h"

namespace bsk::tile {

template <MaskType kMask, int kBlockKeys>
struct MaskTile {
  static constexpr int kElementBytes = mask_element_bytes(kMask);
  static constexpr int kChunkBytes = mask_chunk_bytes(kMask, kBlockKeys);
  static constexpr int kChunkKeys = kChunkBytes / kElementBytes;
  static constexpr int kChunkStride = 64 * kChunkBytes;

  // Where byte `byte` of row `row` of a chunk lies: 16-byte units are exchanged by address bits
  // from bit 7 on.
  static __device__ __forceinline__ int place(int row, int byte) {
    const int start = row * kChunkBytes;
    return start + (byte ^ ((start >> 7 & (kChunkBytes / 16 - 1)) << 4));
  }
};

// Adds an additive mask to scores times `factor`, or removes what a bool mask hides. `row_step`: 1,
// or 0 where the tile has one row.
template <MaskType kMask, int kBlockKeys, int kKvTile>
__device__ __forceinline__ void apply_mask_tile(float (&scores)[kKvTile / 2], const uint8_t* tile,
                                                int row_step, float factor) {
  using Tile = MaskTile<kMask, kBlockKeys>;
  if constexpr (Tile::kElementBytes == 2) {
    // Four matrices of 8 rows and 8 keys at once: rows 0 and 8 of keys 0 and 8 of 16, each given to
    // the lanes as a fragment lies.
    const int lane = lane_index();
    const int row =
        (arch::thread_index() % arch::kWarpgroupThreads / arch::kWarpThreads * 16 + lane % 16) *
        row_step;
    const int place = Tile::place(row, lane / 16 * 16);
#pragma unroll
    for (int step = 0; step < kKvTile / 16; ++step) {
      constexpr int kSteps = Tile::kChunkKeys / 16;
      uint32_t pairs[4];
      arch::load_matrices(tile + step / kSteps * Tile::kChunkStride + (place ^ step % kSteps * 32),
                          pairs);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const auto bits = static_cast<uint16_t>(pairs[i / 2] >> i % 2 * 16);
        const float value =
            kMask == MaskType::kFloat16 ? arch::half_to_float(bits) : arch::bfloat16_to_float(bits);
        float& score = scores[8 * step + i];
        score = arch::fused_multiply_add(score, factor, kLog2e * value);
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int row = (fragment_row() + 8 * r) * row_step;
      const int place = Tile::place(row, fragment_column() * Tile::kElementBytes);
#pragma unroll
      for (int j = 0; j < kKvTile / 8; ++j) {
        constexpr int kGroups = Tile::kChunkKeys / 8;
        const int byte = j % kGroups * 8 * Tile::kElementBytes;
        const uint8_t* const source =
            tile + j / kGroups * Tile::kChunkStride + (place ^ byte / 16 * 16) + byte % 16;
        float& first = scores[4 * j + 2 * r];
        float& second = scores[4 * j + 2 * r + 1];
        if constexpr (kMask == MaskType::kBool) {
          const uint16_t pair = *reinterpret_cast<const uint16_t*>(source);
          if ((pair & 0xff) == 0) first = kMinusInfinity;
          if (pair >> 8 == 0) second = kMinusInfinity;
        } else {
          uint32_t pair[2];
          arch::load_8_bytes(source, pair);
          first = arch::fused_multiply_add(first, factor, kLog2e * arch::bits_float(pair[0]));
          second = arch::fused_multiply_add(second, factor, kLog2e * arch::bits_float(pair[1]));
        }
      }
    }
  }
}

}  // namespace bsk::tile
