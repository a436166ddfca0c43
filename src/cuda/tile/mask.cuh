// Everything that happens to scores between the two products, besides the softmax: scale, softcap,
// additive mask, and then what removes pairs: bool mask, block bits, visible range.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/tile/block_list.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/online_softmax.cuh"
#include "src/cuda/tile/visible_range.cuh"

namespace bsk::tile {

constexpr float kLog2e = 1.44269504088896f;

// tanh by exp2 and a reciprocal: absolute error 2e-7. (tanh.approx is off by 5e-4, and softcap
// multiplies that by 50.)
__device__ __forceinline__ float tanh_accurate(float x) {
  const float e = arch::exp2_approx(x * (2.0f * kLog2e));  // inf and 0 give 1 and -1
  return 1.0f - 2.0f * arch::reciprocal_approx(e + 1.0f);
}

// Caps the scores where there is a cap; returns what they are still to be multiplied by.
template <int kCount>
__device__ __forceinline__ float cap_scores(float (&scores)[kCount],
                                            const ScoreTransform& transform) {
  if (!(transform.softcap > 0.0f)) return transform.scale * kLog2e;
  const float inner = transform.scale * arch::reciprocal_approx(transform.softcap);
  const float outer = transform.softcap * kLog2e;
#pragma unroll
  for (int i = 0; i < kCount; ++i) scores[i] = outer * tanh_accurate(scores[i] * inner);
  return 1.0f;
}

template <int kCount>
__device__ __forceinline__ void transform_scores(float (&scores)[kCount],
                                                 const ScoreTransform& transform) {
  const float factor = cap_scores(scores, transform);
  if (transform.softcap > 0.0f) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) scores[i] *= factor;
}

// True when no rule of position or block bits removes a pair of these rows from the tile.
template <int kBlockKeys, int kUnroll = 1, int kBlocks>
__device__ __forceinline__ bool fully_visible(const TileRecord<kBlocks>& record, KeyRange every) {
  bool visible = true;
#pragma unroll kUnroll
  for (int b = 0; b < kBlocks; ++b) {
    const KeyBlock block = record.blocks[b];
    visible = visible && block.first_key >= every.begin &&
              block.first_key + kBlockKeys <= every.end && block.bits == nullptr;
  }
  return visible;
}

// True when a block without bits has a key for each of some rows in a row. `every`: what all of
// them see, from the last one's first key to the first one's end, which may lie in front of it.
template <int kBlockKeys, int kUnroll = 1, int kBlocks>
__device__ __forceinline__ bool seen_by_every_row(const TileRecord<kBlocks>& record,
                                                  KeyRange every) {
  bool seen = false;
#pragma unroll kUnroll
  for (int b = 0; b < kBlocks; ++b) {
    const KeyBlock block = record.blocks[b];
    seen = seen || (block.bits == nullptr && every.begin < block.first_key + kBlockKeys &&
                    every.end > block.first_key);
  }
  return seen;
}

// Applies visible range and block bits. `first_row` is the tile's query of this thread's first
// fragment row, `block_row` the same row counted inside the block list's query block, whose rows
// have a bit for each of `block_keys` keys.
template <int kBlockKeys, int kBlocks>
__device__ __forceinline__ void remove_pairs(float (&scores)[kBlocks * kBlockKeys / 2],
                                             const TileRecord<kBlocks>& record,
                                             const Visibility& visibility, int first_row,
                                             int block_row, int block_keys) {
  constexpr int kGroups = kBlockKeys / 8;
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const KeyRange range = keys_of_row(visibility, first_row + 8 * r);
    const unsigned length = range.end > range.begin ? range.end - range.begin : 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const KeyBlock block = record.blocks[b];
      const unsigned offset = block.first_key + fragment_column() - range.begin;
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& score = scores[4 * (b * kGroups + j) + 2 * r + c];
          // Unsigned: a key before the range counts as far beyond it.
          if (!(offset + (8 * j + c) < length)) score = kMinusInfinity;
        }
      }
      if (block.bits != nullptr) {
        const uint8_t* const row_bits =
            block.bits + static_cast<int64_t>(block_row + 8 * r) * (block_keys >> 3);
        constexpr int kWordKeys = kBlockKeys < 32 ? 16 : 32;
#pragma unroll
        for (int word = 0; word < kBlockKeys / kWordKeys; ++word) {
          const uint32_t bits =
              (kWordKeys == 16 ? reinterpret_cast<const uint16_t*>(row_bits)[word]
                               : reinterpret_cast<const uint32_t*>(row_bits)[word]) >>
              fragment_column();
#pragma unroll
          for (int j = 0; j < kWordKeys / 8; ++j) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              if ((bits >> (8 * j + c) & 1) == 0) {
                scores[4 * (b * kGroups + word * (kWordKeys / 8) + j) + 2 * r + c] = kMinusInfinity;
              }
            }
          }
        }
      }
    }
  }
}

// One pair's element of attn_mask, at offset `at`, put to its score.
template <MaskType kMask>
__device__ __forceinline__ void mask_score(float& score, const MaskTensor& mask, int64_t at) {
  if constexpr (kMask == MaskType::kBool) {
    if (static_cast<const uint8_t*>(mask.data)[at] == 0) score = kMinusInfinity;
  } else if constexpr (kMask == MaskType::kFloat32) {
    score += kLog2e * static_cast<const float*>(mask.data)[at];
  } else {
    const uint16_t bits = static_cast<const uint16_t*>(mask.data)[at];
    score += kLog2e * (kMask == MaskType::kFloat16 ? arch::half_to_float(bits)
                                                   : arch::bfloat16_to_float(bits));
  }
}

}  // namespace bsk::tile
