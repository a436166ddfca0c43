// Block sparsity: which (query block, key block) pairs an attention problem computes.
#pragma once

#include <cstdint>

namespace bsk {

// The shape of a block mask. A mask holds two block lists per (batch, head, query block): `full`
// blocks, in which every pair may attend, and `partial` blocks, in which one bit per pair decides.
// Both lists hold ascending key-block indices. All arrays are contiguous device data: no plan is
// derived from their contents on the host, so the same captured CUDA graph replays with new
// contents.
struct BlockMaskLayout {
  bool present = false;
  int32_t block_q = 0;        // queries per block: 64 or 128
  int32_t block_k = 0;        // keys per block: 16, 32, 64 or 128
  int64_t batch = 0;          // 1 or the problem's batch
  int64_t heads = 0;          // 1, kv_heads or q_heads
  int64_t q_blocks = 0;       // ceil(q_len / block_q)
  int64_t full_width = 0;     // capacity of one row of `full_indices`
  int64_t partial_width = 0;  // capacity of one row of `partial_indices`; 0 = no partial blocks

  bool operator==(const BlockMaskLayout&) const = default;
};

// The data of a block mask. Rows are counted [batch, heads, q_blocks].
struct BlockMaskBuffers {
  const int32_t* full_counts = nullptr;  // [batch, heads, q_blocks]
  const int32_t* full_indices =
      nullptr;  // [batch, heads, q_blocks, full_width], the first `count` are valid
  const int32_t* partial_counts = nullptr;   // [batch, heads, q_blocks]
  const int32_t* partial_indices = nullptr;  // [batch, heads, q_blocks, partial_width]
  // [batch, heads, q_blocks, partial_width, block_q, block_k / 8]: bit (j % 8) of byte j / 8 is key
  // j of the block.
  const uint8_t* partial_bits = nullptr;
};

}  // namespace bsk
