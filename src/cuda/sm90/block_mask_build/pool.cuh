// Block scores: pooled queries times pooled keys.
#pragma once

#include "src/cuda/sm90/block_mask_build/row_lists.cuh"

namespace bsk::sm90::block_mask_build {

// One block of Q or of K.
struct PooledBlock {
  const uint16_t* first_row;
  int64_t row_stride;
  Type type;
  int rows;
  float* pooled;  // [head_dim]
};

__device__ __forceinline__ PooledBlock pooled_block(const PoolParams& params) {
  const int q_side = params.batch * params.q_heads * params.q_blocks;
  const bool is_q = arch::block_index() < q_side;
  const int index = is_q ? arch::block_index() : arch::block_index() - q_side;
  const int blocks = is_q ? params.q_blocks : params.kv_blocks;
  const int heads = is_q ? params.q_heads : params.kv_heads;
  const Tensor& tensor = is_q ? params.q : params.k;
  const int slice = index / blocks;
  const int batch = slice / heads;
  const Range rows = block_range(index - slice * blocks, is_q ? params.block_q : params.block_k,
                                 is_q ? params.q_len : params.kv_len);
  const int64_t offset = batch * tensor.stride[0] + (slice - batch * heads) * tensor.stride[1] +
                         rows.first * tensor.stride[2];
  return {
      static_cast<const uint16_t*>(tensor.data) + offset, tensor.stride[2], tensor.type,
      rows.last - rows.first + 1,
      (is_q ? params.pooled_q : params.pooled_k) + static_cast<int64_t>(index) * params.head_dim};
}

// A thread has eight channels of every n-th row; shared memory: what each found.
template <class Config>
__device__ __forceinline__ void pool(const PoolParams& params) {
  const PooledBlock block = pooled_block(params);
  const int chunks = params.head_dim / 8;
  const int groups = Config::kThreads / chunks;
  const int group = arch::thread_index() / chunks;
  const int channel = (arch::thread_index() - group * chunks) * 8;
  auto* const found = static_cast<float*>(arch::shared_memory());  // [groups, head_dim]
  const float start = params.maximum ? arch::bits_float(0xff800000u) : 0.0f;
  const auto combine = [maximum = params.maximum](float a, float b) {
    return maximum ? arch::maximum(a, b) : a + b;
  };
  if (group < groups) {
    float pooled[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) pooled[i] = start;
#pragma unroll 4
    for (int row = group; row < block.rows; row += groups) {
      uint32_t words[4];
      arch::load_16_bytes(block.first_row + row * block.row_stride + channel, words);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const auto bits = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
        pooled[i] =
            combine(pooled[i], block.type == Type::kFloat16 ? arch::half_to_float(bits)
                                                            : arch::bfloat16_to_float(bits));
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) found[group * params.head_dim + channel + i] = pooled[i];
  }
  arch::sync_block();
  for (int i = arch::thread_index(); i < params.head_dim; i += Config::kThreads) {
    float all = start;
    for (int g = 0; g < groups; ++g) all = combine(all, found[g * params.head_dim + i]);
    block.pooled[i] = params.maximum ? all : all / static_cast<float>(block.rows);
  }
}

// kTile x kTile scores a CTA; a thread has one key block and kTile / 4 query blocks.
template <class Config>
__device__ __forceinline__ void pooled_product(const PooledProductParams& params) {
  constexpr int kTile = Config::kTile, kPitch = kTile + 1, kRows = kTile / 4;
  static_assert(kTile == arch::kWarpThreads && Config::kThreads == 4 * kTile);
  const PoolParams& pool = params.pool;
  const int q_tiles = (pool.q_blocks + kTile - 1) / kTile;
  const int kv_tiles = (pool.kv_blocks + kTile - 1) / kTile;
  const int slice = arch::block_index() / (q_tiles * kv_tiles);  // batch and head
  const int tile = arch::block_index() - slice * (q_tiles * kv_tiles);
  const int first_q = tile / kv_tiles * kTile, first_k = tile % kv_tiles * kTile;
  const int batch = slice / params.heads, head = slice - batch * params.heads;
  const int group = params.heads == pool.q_heads ? 1 : pool.q_heads / params.heads;
  const int q_head = head * group;
  const int kv_head = q_head / (pool.q_heads / pool.kv_heads);
  const float* const q = pool.pooled_q + (static_cast<int64_t>(batch) * pool.q_heads + q_head) *
                                             pool.q_blocks * pool.head_dim;
  const float* const k = pool.pooled_k + (static_cast<int64_t>(batch) * pool.kv_heads + kv_head) *
                                             pool.kv_blocks * pool.head_dim;
  const int64_t next_head = static_cast<int64_t>(pool.q_blocks) * pool.head_dim;

  auto* const q_tile = static_cast<float*>(arch::shared_memory());
  float* const k_tile = q_tile + kTile * kPitch;
  const int lane = lane_index(), warp = arch::thread_index() / arch::kWarpThreads;
  float scores[kRows] = {};
  for (int first = 0; first < pool.head_dim; first += kTile) {
    const int channel = first + lane;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = warp * kRows + i;
      float of_q = 0, of_k = 0;
      if (channel < pool.head_dim && first_q + row < pool.q_blocks) {
        const float* const from = q + (first_q + row) * pool.head_dim + channel;
        for (int h = 0; h < group; ++h) of_q += from[h * next_head];
      }
      if (channel < pool.head_dim && first_k + row < pool.kv_blocks) {
        of_k = k[(first_k + row) * pool.head_dim + channel];
      }
      q_tile[row * kPitch + lane] = of_q;
      k_tile[row * kPitch + lane] = of_k;
    }
    arch::sync_block();
    for (int d = 0; d < kTile; ++d) {
      const float of_k = k_tile[lane * kPitch + d];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        scores[i] =
            arch::fused_multiply_add(q_tile[(warp * kRows + i) * kPitch + d], of_k, scores[i]);
      }
    }
    arch::sync_block();
  }
  const int block = first_k + lane;
  if (block >= pool.kv_blocks) return;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int q_block = first_q + warp * kRows + i;
    if (q_block >= pool.q_blocks) continue;
    const int last = block_range(q_block, pool.block_q, pool.q_len).last;
    const bool beyond = params.causal && block * pool.block_k > last + params.offset;
    const float score = scores[i] * params.scale / static_cast<float>(group);
    params
        .scores[(static_cast<int64_t>(slice) * pool.q_blocks + q_block) * pool.kv_blocks + block] =
        beyond ? arch::bits_float(0xff800000u) : score;
  }
}

}  // namespace bsk::sm90::block_mask_build
