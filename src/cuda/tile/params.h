// What a launch tells the kernels, and what their threads tell each other: plain data, readable on
// the host.
#pragma once

#include "src/cuda/arch/types.h"
#include "src/cuda/tile/divisor.h"

namespace bsk::tile {

// Query i sees key j when max(0, i + first) <= j < min(kv_len, i + end). Without causal mask and
// window, `first` and `end` are so far out that only 0 and kv_len remain.
struct Visibility {
  static constexpr int kUnbounded = 1 << 29;  // lengths stay below it, sums of two inside int32

  int first = -kUnbounded;
  int end = kUnbounded;
  int kv_len = 0;
};

// A block mask as the kernels read it (include/bsk/block_mask.h); full_counts null = dense.
struct BlockLists {
  const int32_t* full_counts = nullptr;
  const int32_t* full_indices = nullptr;
  const int32_t* partial_counts = nullptr;  // null = no partial blocks
  const int32_t* partial_indices = nullptr;
  const uint8_t* partial_bits = nullptr;
  int block_q = 0, block_k = 0;
  int full_width = 0, partial_width = 0;
  int q_blocks = 0;
  int batch_stride = 0, head_stride = 0;  // in rows of q_blocks; 0 = shared
  Divisor heads_per_list;                 // query heads that share one list
};

// One block of keys to visit.
struct KeyBlock {
  int first_key;        // >= kv_len where there is none: the copy engine fills in zeros
  const uint8_t* bits;  // of query row 0 of the block list's block; null = every pair may attend
};

// kKeys: of bool, the same for every query.
enum class MaskType : int { kNone, kBool, kFloat16, kBFloat16, kFloat32, kKeys };

constexpr int mask_element_bytes(MaskType mask) {
  return mask == MaskType::kNone                              ? 0
         : mask == MaskType::kFloat32                         ? 4
         : mask == MaskType::kKeys || mask == MaskType::kBool ? 1
                                                              : 2;
}
// Of a tile of attn_mask in shared memory (tile/mask_tile.cuh): the bytes that a row has in a
// chunk.
constexpr int mask_chunk_bytes(MaskType mask, int block_keys) {
  const int bytes = block_keys * mask_element_bytes(mask);
  return bytes < 128 ? bytes : 128;
}

// attn_mask [batch, q_heads, q_len, kv_len] by strides in elements; 0 where it is broadcast.
struct MaskTensor {
  const void* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0, column_stride = 0;
};

// The copy engine reads from multiples of 16 bytes on. Rows of attn_mask that begin elsewhere lie
// in shared memory as in memory, in units of 16 bytes: of each block of keys as many as its bytes
// may touch. From row to row it is an odd number of units, which puts 8 rows into different banks.
constexpr int unaligned_mask_pitch(int block_bytes) { return ((block_bytes / 16 + 1) | 1) * 16; }

// What tile/store_rows.cuh uses of shared memory to store 16 rows of up to 64 columns.
constexpr int kStagingBytes = 16 * 128;

// What turns products into base-2 scores where a factor in the softmax is not enough.
struct ScoreTransform {
  float scale = 0.0f;    // the user's
  float softcap = 0.0f;  // 0 = none
};

// The keys of a tile: kBlocks blocks of kBlockKeys, each with a place of its own.
template <int kBlocks>
struct TileRecord {
  // The copying threads have one of many blocks in shared memory while they make it, and loops over
  // its blocks are not unrolled.
  static constexpr bool kFitsInRegisters = kBlocks <= 2;
  static constexpr int kUnroll = kFitsInRegisters ? kBlocks : 1;

  KeyBlock blocks[kBlocks];
  // Bit w: a rule of position or block bits removes pairs of consumer w's rows from the tile;
  // kEveryRowSees << w: each of those rows sees a key of it all the same; kHasNext: another tile of
  // the same task follows; kHidesKeys: a mask of keys removes some of the tile's; kNoTile: there is
  // none in the task. Of keys in chains: kChainBegins: the tile is the first of its chain; kSees <<
  // w: some of consumer w's rows may see some of it; kSeesLater << w: and of a later one.
  uint32_t flags;
  static constexpr uint32_t kHasNext = 1u << 31, kChainBegins = 1u << 30, kHidesKeys = 1u << 29,
                            kNoTile = 1u << 28, kEveryRowSees = 1u << 8, kSees = 1u << 12,
                            kSeesLater = 1u << 16;
};

// tile/scheduler.cuh has the order of tasks.
struct Schedule {
  int tasks = 0;               // q_tiles * heads
  int q_tiles = 0;             // per head
  int heads = 0;               // batch * q_heads
  Divisor heads_per_group;     // heads whose K and V share L2 for a while; the first group may have
  Divisor heads_of_first;      // fewer
  int tasks_of_first = 0;      // heads_of_first * q_tiles
  Divisor group_tasks;         // heads_per_group * q_tiles
  bool longest_first = false;  // the last query tile sees the most keys
  int persistent = 0;          // CTAs that take a task in each of so many rounds; the others take
  int rounds = 0;              // one (`rounds` is even if there are others)
  // Or tiles of 64 rows (`tasks` of them, q_tiles a head) are shared out evenly: so many
  // consecutive ones of each CTA from the front of the numbering, and so many from its back.
  int row_tiles_front = 0, row_tiles_back = 0;
};

}  // namespace bsk::tile
