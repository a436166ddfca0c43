// Rows and their lists: what all builders share.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/sm90/block_mask_build/config.h"

namespace bsk::sm90::block_mask_build {

struct Row {
  int index, batch, head, q_block;
  bool exists;
};

template <int kRowsPerCta>
__device__ __forceinline__ Row row_of_thread(const Output& out) {
  constexpr int kThreadsPerRow = Threads::kThreads / kRowsPerCta;
  const int index = arch::block_index() * kRowsPerCta + arch::thread_index() / kThreadsPerRow;
  const int slice = index / out.q_blocks;
  const int batch = slice / out.heads;
  return {index, batch, slice - batch * out.heads, index - slice * out.q_blocks, batch < out.batch};
}

__device__ __forceinline__ int lane_index() { return arch::thread_index() % arch::kWarpThreads; }

__device__ __forceinline__ int64_t offset_of(const Tensor& tensor, const Row& row) {
  return row.batch * tensor.stride[0] + row.head * tensor.stride[1];
}

__device__ __forceinline__ int64_t integer(const Tensor& tensor, int64_t offset) {
  if (tensor.type == Type::kInt64) return static_cast<const int64_t*>(tensor.data)[offset];
  return static_cast<const int32_t*>(tensor.data)[offset];
}

__device__ __forceinline__ float real(const Tensor& tensor, int64_t offset) {
  if (tensor.type == Type::kFloat32) return static_cast<const float*>(tensor.data)[offset];
  const uint16_t bits = static_cast<const uint16_t*>(tensor.data)[offset];
  return tensor.type == Type::kFloat16 ? arch::half_to_float(bits) : arch::bfloat16_to_float(bits);
}

// As Python's floor division, of a divisor > 0.
__device__ __forceinline__ int floor_divide(int a, int b) {
  const int quotient = a / b;
  return quotient * b > a ? quotient - 1 : quotient;
}

template <class T>
__device__ __forceinline__ T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
__device__ __forceinline__ T larger(T a, T b) {
  return a > b ? a : b;
}

// First and last position of a block; blocks exist, so the range is not empty.
struct Range {
  int first, last;
};
__device__ __forceinline__ Range block_range(int block, int size, int length) {
  return {block * size, smaller(block * size + size, length) - 1};
}

// One list of one row, written by one warp in ascending order, 32 blocks at a time.
class ListWriter {
 public:
  __device__ __forceinline__ ListWriter(int32_t* indices, int row, int width)
      : indices_(indices + static_cast<int64_t>(row) * width), width_(width) {}

  // Lane i's block is `first_block + i`; all lanes of the warp call it.
  __device__ __forceinline__ void append(bool take, int first_block) {
    const uint32_t votes = arch::ballot(take);
    const int lane = lane_index();
    const int place = count_ + arch::population_count(votes & ((1u << lane) - 1));
    if (take && place < width_) indices_[place] = first_block + lane;
    count_ += arch::population_count(votes);
  }

  // `counts` may be null where the capacity is 0.
  __device__ __forceinline__ void finish(int32_t* counts, int row) {
    for (int place = count_ + lane_index(); place < width_; place += arch::kWarpThreads) {
      indices_[place] = 0;
    }
    if (lane_index() != 0) return;
    if (counts != nullptr) counts[row] = smaller(count_, width_);
    if (count_ > width_) {
      arch::fail_assertion(
          "block lists: a row holds more blocks than its capacity. Raise the capacity "
          "(max_partial_blocks, max_document_len, max_blocks_per_row) or leave it out.");
    }
  }

 private:
  int32_t* const indices_;
  const int width_;
  int count_ = 0;
};

}  // namespace bsk::sm90::block_mask_build
