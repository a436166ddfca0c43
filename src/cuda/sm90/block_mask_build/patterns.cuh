// Patterns by arithmetic: for each source, what a block of a row is, and which pairs of a partial
// block may attend. The formulas are those of python/blackwell_sparsek/block_mask_builders.py.
#pragma once

#include "src/cuda/sm90/block_mask_build/row_lists.cuh"

namespace bsk::sm90::block_mask_build {

enum class Coverage : int { kNone, kPartial, kFull };

__device__ __forceinline__ Coverage coverage_of(bool touched, bool full) {
  return full ? Coverage::kFull : touched ? Coverage::kPartial : Coverage::kNone;
}

// Bits 0..n-1 of 16.
__device__ __forceinline__ uint32_t bits_below(int n) {
  return n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1;
}

// One row of a source. `coverage(block)` for any block; `bits(query, key)`: bit i tells whether the
// row's query may attend to key + i, of 16.
template <class Source>
class RowPattern;

template <>
class RowPattern<Dense> {
 public:
  __device__ __forceinline__ RowPattern(const Dense& source, const Output&, const Row& row)
      : blocks_(static_cast<const uint8_t*>(source.mask.data) + offset_of(source.mask, row) +
                row.q_block * source.mask.stride[2]),
        stride_(source.mask.stride[3]) {}

  __device__ __forceinline__ Coverage coverage(int block) const {
    return blocks_[block * stride_] != 0 ? Coverage::kFull : Coverage::kNone;
  }

 private:
  const uint8_t* const blocks_;
  const int64_t stride_;
};

template <>
class RowPattern<Window> {
 public:
  __device__ __forceinline__ RowPattern(const Window& source, const Output& out, const Row& row)
      : source_(source), out_(out) {
    const Range q = block_range(row.q_block, out.block_q, out.q_len);
    diagonal_ = {q.first + source.offset, q.last + source.offset};
  }

  __device__ __forceinline__ Coverage coverage(int block) const {
    const Range k = block_range(block, out_.block_k, out_.kv_len);
    const bool under = k.first - diagonal_.last <= source_.right;
    const bool near = k.last - diagonal_.first >= -source_.left || k.first < source_.sink;
    // The key most likely to fall out on the left is the first one that is not a sink.
    const bool inside =
        k.last < source_.sink || larger(k.first, source_.sink) - diagonal_.last >= -source_.left;
    const bool touched = under && near;
    return coverage_of(touched, touched && k.last - diagonal_.first <= source_.right && inside);
  }

  __device__ __forceinline__ uint32_t bits(int query, int key) const {
    const int diagonal = query + source_.offset - key;
    return bits_below(diagonal + source_.right + 1) &
           (~bits_below(diagonal - source_.left) | bits_below(source_.sink - key));
  }

 private:
  const Window& source_;
  const Output& out_;
  Range diagonal_;  // of the row's first and last query
};

template <>
class RowPattern<Strided> {
 public:
  __device__ __forceinline__ RowPattern(const Strided& source, const Output& out, const Row& row)
      : source_(source) {
    const Range q = block_range(row.q_block, out.block_q, out.q_len);
    low_ = floor_divide(q.first + source.offset, out.block_k);
    high_ = floor_divide(q.last + source.offset, out.block_k);
  }

  __device__ __forceinline__ Coverage coverage(int block) const {
    const int after = larger(block - high_, 0);
    const int distance = larger(low_ - block, 0) + after;
    const bool near = distance % source_.stride == 0 || distance < source_.local;
    const bool taken = near && !(source_.causal && after > 0);
    return coverage_of(taken, taken);
  }

 private:
  const Strided& source_;
  int low_, high_;  // blocks of the diagonal
};

template <>
class RowPattern<Segments> {
 public:
  __device__ __forceinline__ RowPattern(const Segments& source, const Output& out, const Row& row)
      : source_(source), out_(out), end_(boundary(source.boundaries - 1)) {
    check_boundaries();
    q_ = summary(block_range(row.q_block, out.block_q, out.q_len));
  }

  __device__ __forceinline__ Coverage coverage(int block) const {
    const Summary k = summary(block_range(block, out_.block_k, out_.kv_len));
    const bool touched = q_.low <= k.high && k.low <= q_.high;
    return coverage_of(touched, touched && q_.even && k.even && q_.low == k.low);
  }

  __device__ __forceinline__ uint32_t bits(int query, int key) const {
    if (query >= end_) return 0;
    const int document = document_of(query);
    return bits_below(boundary(document + 1) - key) & ~bits_below(boundary(document) - key);
  }

 private:
  struct Summary {
    int low, high;  // documents; crossed where all is padding
    bool even;
  };

  __device__ __forceinline__ int boundary(int i) const {
    const int64_t value = integer(source_.cu_seqlens, i * source_.cu_seqlens.stride[3]);
    return static_cast<int>(larger<int64_t>(-1, smaller<int64_t>(value, kUnboundedReach)));
  }

  __device__ __forceinline__ void check_boundaries() const {
    bool right = boundary(0) == 0 && end_ <= out_.q_len;
    for (int i = arch::thread_index(); i + 1 < source_.boundaries; i += Threads::kThreads) {
      right = right && boundary(i) <= boundary(i + 1);
    }
    if (!right) {
      arch::fail_assertion(
          "cu_seqlens: must start at 0, never fall, and end at most at q_len. Correct it.");
    }
  }

  // The last document that begins at or before the token (< end_): empty ones do not hold it.
  __device__ __forceinline__ int document_of(int token) const {
    int low = 0, high = source_.boundaries - 1;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (boundary(middle) <= token ? low : high) = middle;
    }
    return low;
  }

  __device__ __forceinline__ Summary summary(Range tokens) const {
    if (tokens.first >= end_) return {1, -1, false};
    const int low = document_of(tokens.first);
    const int high = document_of(smaller(tokens.last, end_ - 1));
    return {low, high, tokens.last < end_ && low == high};
  }

  const Segments& source_;
  const Output& out_;
  const int end_;  // tokens from here on are padding
  Summary q_;
};

template <>
class RowPattern<Ids> {
 public:
  __device__ __forceinline__ RowPattern(const Ids& source, const Output& out, const Row& row)
      : source_(source),
        out_(out),
        k_ranges_(source.ranges + out.batch * out.q_blocks + row.batch * out.kv_blocks),
        ids_(row.batch * source.ids.stride[0]),
        q_(source.ranges[row.batch * out.q_blocks + row.q_block]) {}

  __device__ __forceinline__ Coverage coverage(int block) const {
    const IdRange k = k_ranges_[block];
    // Ids of sorted documents overlap exactly where their ranges do; of others, at most there.
    const bool touched = q_.low <= k.high && k.low <= q_.high;
    return coverage_of(touched, touched && q_.even != 0 && k.even != 0 && q_.low == k.low);
  }

  __device__ __forceinline__ uint32_t bits(int query, int key) const {
    if (query >= out_.q_len) return 0;
    const int64_t document = id(query);
    if (document < 0) return 0;
    uint32_t result = 0;
    for (int i = 0; i < 16 && key + i < out_.kv_len; ++i) {
      if (id(key + i) == document) result |= 1u << i;
    }
    return result;
  }

 private:
  __device__ __forceinline__ int64_t id(int token) const {
    return integer(source_.ids, ids_ + token * source_.ids.stride[3]);
  }

  const Ids& source_;
  const Output& out_;
  const IdRange* const k_ranges_;
  const int64_t ids_;
  const IdRange q_;
};

// Ids' first launch: a warp summarises a block of tokens.
template <class Config>
__device__ __forceinline__ void id_ranges(const IdRangesParams& params) {
  constexpr int kWarps = Config::kThreads / arch::kWarpThreads;
  const int index = arch::block_index() * kWarps + arch::thread_index() / arch::kWarpThreads;
  const int q_side = params.batch * params.q_blocks;
  if (index >= q_side + params.batch * params.kv_blocks) return;
  const bool is_q = index < q_side;
  const int place = is_q ? index : index - q_side;
  const int blocks = is_q ? params.q_blocks : params.kv_blocks;
  const int batch = place / blocks;
  const Range tokens =
      block_range(place - batch * blocks, is_q ? params.block_q : params.block_k, params.length);
  constexpr int64_t kGreatest = 0x7fffffffffffffff;
  int64_t low = kGreatest, high = -1;
  bool padding = false;
  for (int token = tokens.first + lane_index(); token <= tokens.last; token += 32) {
    const int64_t id =
        integer(params.ids, batch * params.ids.stride[0] + token * params.ids.stride[3]);
    padding = padding || id < 0;
    if (id < 0) continue;
    low = smaller(low, id);
    high = larger(high, id);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    low = smaller(low, arch::shuffle_xor(low, distance));
    high = larger(high, arch::shuffle_xor(high, distance));
  }
  padding = arch::warp_any(padding);
  if (lane_index() == 0) params.ranges[index] = {low, high, !padding && low == high ? 1 : 0};
}

}  // namespace bsk::sm90::block_mask_build
