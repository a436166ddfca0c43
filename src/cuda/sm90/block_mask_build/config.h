// What the builders of block masks read and write, readable on the host. DESIGN.md explains them.
#pragma once

#include "src/cuda/arch/types.h"

namespace bsk::sm90::block_mask_build {

constexpr int kUnboundedReach = 1 << 30;  // lengths stay below 2^28, so distances below this

enum class Type : int { kBool, kInt32, kInt64, kFloat32, kFloat16, kBFloat16 };

// A tensor [batch, heads, rows, columns]; stride 0 where it is the same along a dimension.
struct Tensor {
  const void* data = nullptr;
  Type type = Type::kInt32;
  int64_t stride[4] = {};  // in elements
};

// The lists being built (include/bsk/block_mask.h): row = (batch * heads + head) * q_blocks +
// q_block. What lies behind a row's count is 0 in `indices` and left as it was in `bits`.
struct Output {
  int32_t* full_counts = nullptr;
  int32_t* full_indices = nullptr;  // [rows, full_width]
  int32_t* partial_counts = nullptr;
  int32_t* partial_indices = nullptr;  // [rows, partial_width]
  uint8_t* partial_bits = nullptr;     // [rows, partial_width, block_q, block_k / 8]
  int full_width = 0, partial_width = 0;
  int batch = 0, heads = 0, q_blocks = 0, kv_blocks = 0;
  int block_q = 0, block_k = 0;
  int q_len = 0, kv_len = 0;  // where the pattern depends on them
};

// ---- where a row's blocks come from
// --------------------------------------------------------------

// A bool for each block.
struct Dense {
  static constexpr bool kHasPartial = false;
  Tensor mask;
};

// BlockMask.sliding_window: query i sees key j where -left <= j - (i + offset) <= right, or j <
// sink and the second alone.
struct Window {
  static constexpr bool kHasPartial = true;
  int offset = 0, left = 0, right = 0, sink = 0;
};

// BlockMask.strided; offset as above, `stride` and `local` in blocks.
struct Strided {
  static constexpr bool kHasPartial = false;
  int offset = 0, stride = 0, local = 0;
  bool causal = false;
};

// Documents of packed tokens by their boundaries [1, 1, 1, documents + 1].
struct Segments {
  static constexpr bool kHasPartial = true;
  Tensor cu_seqlens;
  int boundaries = 0;
};

// The ids of a block's tokens.
struct IdRange {
  int64_t low, high;  // of those >= 0; crossed where there are none
  int64_t even;       // 1: all ids are one and the same, and >= 0
};

// Documents by an id for each token [batch, 1, 1, q_len].
struct Ids {
  static constexpr bool kHasPartial = true;
  Tensor ids;
  IdRange* ranges = nullptr;  // of IdRanges below: [batch, q_blocks], then [batch, kv_blocks]
};

// The summary of ids that Ids needs first: one warp a block.
struct IdRangesParams {
  Tensor ids;
  IdRange* ranges = nullptr;
  int batch = 0, length = 0, q_blocks = 0, kv_blocks = 0, block_q = 0, block_k = 0;
};

// Lists in any order, with duplicates and -1 for padding. `counts` null = `width` entries a row.
struct Lists {
  Tensor counts;   // [batch, heads, q_blocks]: stride[2] is a row's
  Tensor indices;  // [batch, heads, q_blocks, width]
  int width = 0;
};

// Block compressed sparse rows: row r's list is indices[indptr[r] : indptr[r + 1]].
struct CompressedRows {
  Tensor indptr;   // [batch, heads, 1, q_blocks + 1]
  Tensor indices;  // [batch, heads, 1, entries]
  int entries = 0, max_blocks_per_row = 0;
};

// Key columns, and diagonals so far left of the main one; -1 is padding in both.
struct VerticalSlash {
  Tensor vertical, slash;  // [batch, heads, 1, columns] and [.., diagonals]
  int columns = 0, diagonals = 0, offset = 0;
};

enum class Selection : int { kTopK, kMass };

// Scores of blocks, of which a row takes the best.
struct Scores {
  Tensor scores;
  Selection selection = Selection::kTopK;
  int k = 0;            // top-k: how many
  double share = 0;     // cumulative mass: how much
  bool softmax = true;  // a block's mass is exp(score), not the score itself
  // Top-k: the block of the lower-right diagonal comes before all others.
  bool diagonal_first = false;
};

template <class SourceType>
struct BuildParams {
  Output out;
  SourceType source;
};

// ---- configurations
// ------------------------------------------------------------------------------

struct Threads {
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 1;
};

// A row belongs to a warp, or to the CTA where there is more to do than a list.
template <class SourceType, int kThreadsPerRowValue>
struct RowConfig : Threads {
  using Source = SourceType;
  using Params = BuildParams<Source>;
  static constexpr int kThreadsPerRow = kThreadsPerRowValue;
  static constexpr int kRowsPerCta = kThreads / kThreadsPerRow;
  static_assert(kThreadsPerRow == arch::kWarpThreads || kThreadsPerRow == kThreads);
};

// A lane holds the scores of kItems blocks, so a row has at most 32 * kItems.
template <Selection kSelectionValue, int kItemsValue>
struct ScoresConfig : RowConfig<Scores, arch::kWarpThreads> {
  static constexpr Selection kSelection = kSelectionValue;
  static constexpr int kItems = kItemsValue;
};

struct IdRangesConfig : Threads {
  using Params = IdRangesParams;
};

// ---- block scores by pooled queries and keys
// -----------------------------------------------------

// Q and K pooled to fp32 [batch, q_heads, q_blocks, head_dim] and [batch, kv_heads, kv_blocks, ..],
// one CTA a block. fp16 or bf16, a unit stride in head_dim, rows 16-byte aligned.
struct PoolParams {
  Tensor q, k;
  float* pooled_q = nullptr;
  float* pooled_k = nullptr;
  bool maximum = false;  // of every channel, not the mean
  int batch = 0, q_heads = 0, kv_heads = 0, head_dim = 0;
  int q_len = 0, kv_len = 0, q_blocks = 0, kv_blocks = 0, block_q = 0, block_k = 0;
};

// Scores [batch, heads, q_blocks, kv_blocks] of what PoolParams describes. heads = q_heads, or
// kv_heads: the mean over the query heads of a group.
struct PooledProductParams {
  PoolParams pool;
  float* scores = nullptr;
  float scale = 0;
  int heads = 0;
  bool causal = false;  // -inf for blocks wholly beyond the diagonal
  int offset = 0;       // of the diagonal
};

struct PoolConfig : Threads {
  using Params = PoolParams;
};
struct PooledProductConfig : Threads {
  using Params = PooledProductParams;
  static constexpr int kTile = 32;  // blocks of either side
};
constexpr int kPoolSharedBytes = Threads::kThreads * 8 * 4;

// Words of a row's bitmap in shared memory (Lists, CompressedRows, VerticalSlash).
constexpr int bitmap_words(int kv_blocks) { return (kv_blocks + 31) / 32; }

}  // namespace bsk::sm90::block_mask_build
