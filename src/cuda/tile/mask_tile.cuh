// A tile of attn_mask in shared memory: 64 query rows (or one, where all are the same) by the keys
// of a tile, for each consumer.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/mask.cuh"
#include "src/cuda/tile/params.h"

namespace bsk::tile {

// As the copy engine writes it: in boxes of chunks of so many keys as fit in 128 bytes, each [64
// rows][keys] and swizzled.
template <class Config>
struct MaskTile {
  static constexpr int kElementBytes = mask_element_bytes(Config::kMask);
  static constexpr int kChunkBytes = mask_chunk_bytes(Config::kMask, Config::kBlockKeys);
  static constexpr int kChunkKeys = kChunkBytes / kElementBytes;
  static constexpr int kChunks = Config::kKvTile / kChunkKeys;
  static constexpr int kBoxBytes = 64 * kChunkBytes;
  static_assert(kBoxBytes % 1024 == 0);

  // Where the box of the first row begins in a stage.
  static __device__ __forceinline__ int box(int consumer, int chunk) {
    return (consumer * kChunks + chunk) * kBoxBytes;
  }
  // Where byte `byte` of row `row` lies behind that: 16-byte units are exchanged by address bits
  // from bit 7 on.
  static __device__ __forceinline__ int place(int row, int byte) {
    const int start = row * kChunkBytes;
    return start + (byte ^ ((start >> 7 & (kChunkBytes / 16 - 1)) << 4));
  }
};

// A 16-bit element of a mask.
template <class Config>
__device__ __forceinline__ float mask_value(uint16_t bits) {
  return Config::kMask == MaskType::kFloat16 ? arch::half_to_float(bits)
                                             : arch::bfloat16_to_float(bits);
}

// A score times `factor`, with a bias, less `subtract`.
__device__ __forceinline__ float biased(float score, float factor, float bias, float subtract) {
  return arch::fused_multiply_add(score, factor, arch::fused_multiply_add(bias, kLog2e, -subtract));
}

// Adds an additive mask to scores times `factor` and takes `subtract` from them, or removes what a
// bool mask hides. `stage`: the masks of all consumers; `row_step`: 1, or 0 where the tile has one
// row.
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
      const int place = Tile::place(row, lane / 16 * 16);
      uint32_t pairs[4];
      arch::load_matrices(stage + box + (place ^ step % kSteps * 32), pairs);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const auto bits = static_cast<uint16_t>(pairs[i / 2] >> i % 2 * 16);
        float& score = scores[8 * step + i];
        score = biased(score, factor, mask_value<Config>(bits), subtract[i % 4 / 2]);
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
        const int place = Tile::place(row, fragment_column() * Tile::kElementBytes);
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
          first = biased(first, factor, arch::bits_float(pair[0]), subtract[r]);
          second = biased(second, factor, arch::bits_float(pair[1]), subtract[r]);
        }
      }
    }
  }
}

// As three warps write it where the copy engine does not take the mask: [consumer][block][64
// rows], each row in the units of 16 bytes of unaligned_mask_pitch, as they lie in memory. Tiles
// and blocks begin at multiples of 16 keys, so that a row begins equally far behind a multiple of
// 16 bytes in all of them.
template <class Config>
struct UnalignedMaskTile {
  static constexpr int kElementBytes = mask_element_bytes(Config::kMask);
  static constexpr int kBlockBytes = Config::kBlockKeys * kElementBytes;
  static constexpr int kUnits = kBlockBytes / 16 + 1;  // the last has no key where a row is aligned
  static constexpr int kPitch = unaligned_mask_pitch(kBlockBytes);
  static_assert(kBlockBytes % 16 == 0 && kUnits * 16 <= kPitch);

  // Where a consumer's rows of a block begin in a stage.
  static __device__ __forceinline__ int block(int consumer, int block) {
    return (consumer * Config::kBlocks + block) * 64 * kPitch;
  }
};

// Where the keys that a thread has of a block begin, for each of its rows: behind the beginning of
// the rows, of which `first_row` is the first one's number in the head.
template <class Config>
__device__ __forceinline__ void find_mask_places(const MaskTensor& mask, int batch, int head,
                                                 int first_row, int (&places)[kRowsPerThread]) {
  using Tile = UnalignedMaskTile<Config>;
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const int row = fragment_row() + 8 * r;
    // Its lowest bits matter, so that it may overflow.
    const uint32_t start =
        static_cast<uint32_t>(reinterpret_cast<uint64_t>(mask.data)) +
        Tile::kElementBytes * (batch * static_cast<uint32_t>(mask.batch_stride) +
                               head * static_cast<uint32_t>(mask.head_stride) +
                               (first_row + row) * static_cast<uint32_t>(mask.row_stride));
    places[r] = (mask.row_stride == 0 ? 0 : row * Tile::kPitch) +
                (mask.column_stride == 1 ? static_cast<int>(start % 16) : 0) +
                fragment_column() * Tile::kElementBytes;
  }
}

// apply_mask_tile for an unaligned mask: a row may begin at any element, and each is read by
// itself.
template <class Config>
__device__ __forceinline__ void apply_unaligned_mask_tile(float (&scores)[Config::kKvTile / 2],
                                                          const uint8_t* stage, int consumer,
                                                          const int (&places)[kRowsPerThread],
                                                          float factor,
                                                          const float (&subtract)[kRowsPerThread]) {
  using Tile = UnalignedMaskTile<Config>;
#pragma unroll
  for (int i = 0; i < Config::kKvTile / 2; ++i) {
    constexpr int kGroups = Config::kBlockKeys / 8;
    const int j = i / 4, byte = (j % kGroups * 8 + i % 2) * Tile::kElementBytes;
    const uint8_t* const element =
        stage + Tile::block(consumer, j / kGroups) + places[i % 4 / 2] + byte;
    float& score = scores[i];
    if constexpr (Config::kMask == MaskType::kBool) {
      if (*element == 0) score = kMinusInfinity;
    } else if constexpr (Config::kMask == MaskType::kFloat32) {
      const float value = arch::bits_float(*reinterpret_cast<const uint32_t*>(element));
      score = biased(score, factor, value, subtract[i % 4 / 2]);
    } else {
      const float value = mask_value<Config>(*reinterpret_cast<const uint16_t*>(element));
      score = biased(score, factor, value, subtract[i % 4 / 2]);
    }
  }
}

}  // namespace bsk::tile
