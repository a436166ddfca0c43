// Builders of block masks: one launch makes the lists (and bits) of a whole mask. DESIGN.md beside
// this has the picture.
#pragma once

#include "src/cuda/sm90/block_mask_build/patterns.cuh"
#include "src/cuda/sm90/block_mask_build/pool.cuh"
#include "src/cuda/sm90/block_mask_build/select.cuh"

namespace bsk::sm90::block_mask_build {

// Dense, Window, Strided, Segments, Ids: every block of a row tells what it is.
template <class Config>
__device__ __forceinline__ void lists_of_blocks(const typename Config::Params& params) {
  using Source = typename Config::Source;
  const Output& out = params.out;
  const Row row = row_of_thread<Config::kRowsPerCta>(out);
  if (!row.exists) return;
  const RowPattern<Source> pattern(params.source, out, row);
  if (arch::thread_index() % Config::kThreadsPerRow < arch::kWarpThreads) {
    ListWriter full(out.full_indices, row.index, out.full_width);
    ListWriter partial(out.partial_indices, row.index, out.partial_width);
    constexpr int kAhead = 4;  // loads under way at a time
    for (int first = 0; first < out.kv_blocks; first += kAhead * arch::kWarpThreads) {
      Coverage coverage[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int block = first + i * arch::kWarpThreads + lane_index();
        coverage[i] = block < out.kv_blocks ? pattern.coverage(block) : Coverage::kNone;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        full.append(coverage[i] == Coverage::kFull, first + i * arch::kWarpThreads);
        if constexpr (Source::kHasPartial) {
          partial.append(coverage[i] == Coverage::kPartial, first + i * arch::kWarpThreads);
        }
      }
    }
    full.finish(out.full_counts, row.index);
    if constexpr (Source::kHasPartial) partial.finish(out.partial_counts, row.index);
  }
  if constexpr (Source::kHasPartial) {
    static_assert(Config::kThreadsPerRow == Config::kThreads);
    if (out.partial_counts == nullptr) return;
    arch::sync_block();
    const int listed = out.partial_counts[row.index];
    const int words = out.block_k / 16;  // of 16 keys, a query
    const int64_t slots = static_cast<int64_t>(row.index) * out.partial_width;
    auto* const bits = reinterpret_cast<uint16_t*>(out.partial_bits);
    for (int slot = 0; slot < listed; ++slot) {
      const int first_key = out.partial_indices[slots + slot] * out.block_k;
      uint16_t* const block = bits + (slots + slot) * out.block_q * words;
      for (int i = arch::thread_index(); i < out.block_q * words; i += Config::kThreads) {
        const int query = i / words;
        block[i] = static_cast<uint16_t>(
            pattern.bits(row.q_block * out.block_q + query, first_key + (i - query * words) * 16));
      }
    }
  }
}

// Scores: a row takes its best blocks.
template <class Config>
__device__ __forceinline__ void lists_of_scores(const typename Config::Params& params) {
  const Output& out = params.out;
  const Scores& source = params.source;
  const Row row = row_of_thread<Config::kRowsPerCta>(out);
  if (!row.exists) return;
  const int64_t first = offset_of(source.scores, row) + row.q_block * source.scores.stride[2];
  int diagonal = -1;
  if (source.diagonal_first) {
    const int last = block_range(row.q_block, out.block_q, out.q_len).last;
    diagonal = larger(last + out.kv_len - out.q_len, 0) / out.block_k;
  }
  uint32_t keys[Config::kItems];
#pragma unroll
  for (int i = 0; i < Config::kItems; ++i) {
    const int block = i * arch::kWarpThreads + lane_index();
    keys[i] = block >= out.kv_blocks
                  ? 0
                  : order_key(real(source.scores, first + block * source.scores.stride[3]));
    if (block == diagonal) keys[i] = 0xffffffffu;
  }
  bool taken[Config::kItems];
  if constexpr (Config::kSelection == Selection::kTopK) {
    take_best(keys, source.k, taken);
  } else {
    take_mass(keys, source, taken);
  }
  ListWriter full(out.full_indices, row.index, out.full_width);
#pragma unroll
  for (int i = 0; i < Config::kItems; ++i) full.append(taken[i], i * arch::kWarpThreads);
  full.finish(out.full_counts, row.index);
}

// ---- sources that name blocks in any order: marked in a bitmap, then listed
// ----------------------

struct Bitmap {
  uint32_t* const words;
  __device__ __forceinline__ void mark(int block) {
    arch::atomic_or(words[block / 32], 1u << (block % 32));
  }
};

// One listed entry: a block, -1 (padding), or an error.
__device__ __forceinline__ void mark_listed(Bitmap bitmap, int64_t block, const Output& out) {
  if (block >= 0 && block < out.kv_blocks) {
    bitmap.mark(static_cast<int>(block));
  } else if (block != -1) {
    arch::fail_assertion(
        "indices: each listed one must be a key block or -1 for padding. Check kv_len and "
        "block_size, or the counts.");
  }
}

__device__ __forceinline__ void mark(Bitmap bitmap, const Lists& source, const Output& out,
                                     const Row& row, int thread, int threads) {
  int64_t count = source.width;
  if (source.counts.data != nullptr) {
    count = integer(source.counts,
                    offset_of(source.counts, row) + row.q_block * source.counts.stride[2]);
    if (count < 0 || count > source.width) {
      arch::fail_assertion("counts: each must lie in [0, the width of indices]. Correct them.");
      count = 0;
    }
  }
  const int64_t first = offset_of(source.indices, row) + row.q_block * source.indices.stride[2];
  for (int i = thread; i < count; i += threads) {
    mark_listed(bitmap, integer(source.indices, first + i * source.indices.stride[3]), out);
  }
}

__device__ __forceinline__ void mark(Bitmap bitmap, const CompressedRows& source, const Output& out,
                                     const Row& row, int thread, int threads) {
  const int64_t place = offset_of(source.indptr, row) + row.q_block * source.indptr.stride[3];
  const int64_t begin = integer(source.indptr, place);
  int64_t end = integer(source.indptr, place + source.indptr.stride[3]);
  if (begin < 0 || end < begin || end > source.entries || end - begin > source.max_blocks_per_row) {
    arch::fail_assertion(
        "indptr: must rise from >= 0 to <= the number of indices by at most max_blocks_per_row a "
        "row. Check it, or raise max_blocks_per_row.");
    end = begin;
  }
  const int64_t first = offset_of(source.indices, row);
  for (int64_t i = begin + thread; i < end; i += threads) {
    mark_listed(bitmap, integer(source.indices, first + i * source.indices.stride[3]), out);
  }
}

__device__ __forceinline__ void mark(Bitmap bitmap, const VerticalSlash& source, const Output& out,
                                     const Row& row, int thread, int threads) {
  const int64_t columns = offset_of(source.vertical, row);
  for (int i = thread; i < source.columns; i += threads) {
    const int64_t key = integer(source.vertical, columns + i * source.vertical.stride[3]);
    if (key >= 0 && key < out.kv_len) {
      bitmap.mark(static_cast<int>(key) / out.block_k);
    } else if (key != -1) {
      arch::fail_assertion("vertical_indices: each must be a key or -1 for padding. Correct it.");
    }
  }
  const int64_t diagonals = offset_of(source.slash, row);
  const Range q = block_range(row.q_block, out.block_q, out.q_len);
  for (int i = thread; i < source.diagonals; i += threads) {
    const int64_t slash = integer(source.slash, diagonals + i * source.slash.stride[3]);
    if (slash < -1) {
      arch::fail_assertion("slash_indices: each must be >= 0 or -1 for padding. Fix it.");
    }
    if (slash < 0) continue;
    // Rows of the query block put the diagonal on these keys.
    const int64_t first = larger<int64_t>(q.first + source.offset - slash, 0);
    const int64_t last = smaller<int64_t>(q.last + source.offset - slash, out.kv_len - 1);
    for (int64_t block = first / out.block_k; block * out.block_k <= last && first <= last;
         ++block) {
      bitmap.mark(static_cast<int>(block));
    }
  }
}

// Lists, CompressedRows, VerticalSlash. Shared memory: bitmap_words(kv_blocks) a row.
template <class Config>
__device__ __forceinline__ void lists_of_marks(const typename Config::Params& params) {
  constexpr int kThreadsPerRow = Config::kThreadsPerRow;
  const Output& out = params.out;
  const Row row = row_of_thread<Config::kRowsPerCta>(out);
  if (!row.exists) return;
  const auto synchronise = [] {
    if constexpr (kThreadsPerRow == arch::kWarpThreads) {
      arch::sync_warp();
    } else {
      arch::sync_block();
    }
  };
  const int words = bitmap_words(out.kv_blocks);
  const int thread = arch::thread_index() % kThreadsPerRow;
  const Bitmap bitmap{static_cast<uint32_t*>(arch::shared_memory()) +
                      arch::thread_index() / kThreadsPerRow * words};
  for (int i = thread; i < words; i += kThreadsPerRow) bitmap.words[i] = 0;
  synchronise();
  mark(bitmap, params.source, out, row, thread, kThreadsPerRow);
  synchronise();
  if (thread >= arch::kWarpThreads) return;
  ListWriter full(out.full_indices, row.index, out.full_width);
  for (int i = 0; i < words; ++i) full.append((bitmap.words[i] >> lane_index() & 1) != 0, 32 * i);
  full.finish(out.full_counts, row.index);
}

}  // namespace bsk::sm90::block_mask_build
