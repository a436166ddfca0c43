// How the parts that warps and CTAs have computed over different keys become the output.
#pragma once

#include "src/cuda/arch/cluster.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/sm90/attention_forward_split/scores.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/online_softmax.cuh"

namespace bsk::sm90::attention_forward_split {

constexpr int kConsumersBarrier = 1;  // named barrier of the consumer warps
constexpr int kRanksAtOnce = 8;       // whose parts a thread loads before it adds them

// [Config::kRows][Config::kPartialStride]: O over some keys, where the ring was; of the CTA, or at
// first of a warp.
template <class Config>
__device__ __forceinline__ float* partial(typename Config::SharedMemory& shared, int part = 0) {
  return reinterpret_cast<float*>(shared.stages) + part * Config::kRows * Config::kPartialStride;
}

// Lays out what a thread has of its two rows, the first of which is `first_row`.
template <class Config>
__device__ __forceinline__ void offer(float (*statistics)[2], float* part,
                                      const float (&o)[Config::kVHeadDim / 2],
                                      const tile::SoftmaxRows& rows, int first_row, int used) {
#pragma unroll
  for (int r = 0; r < tile::kRowsPerThread; ++r) {
    const int row = first_row + 8 * r;
    if (row >= used) continue;
    if (tile::lane_index() % 4 == 0) {
      // Keys that are all hidden must not raise the row's maximum.
      statistics[row][0] = rows.seen_maximum(r);
      statistics[row][1] = rows.sum[r];
    }
    float* const place = part + row * Config::kPartialStride + tile::fragment_column();
#pragma unroll
    for (int j = 0; j < Config::kVHeadDim / 8; ++j) {
      place[8 * j] = o[4 * j + 2 * r];
      place[8 * j + 1] = o[4 * j + 2 * r + 1];
    }
  }
}

// Makes the CTA's part of its warps', in the order of the warps. Four columns of a row are a
// thread's.
template <class Config>
__device__ __forceinline__ void add_warps(typename Config::SharedMemory& shared, int used) {
  constexpr int kUnits = Config::kVHeadDim / 4;
  for (int unit = arch::thread_index(); unit < used * kUnits; unit += Config::kConsumerThreads) {
    const int row = unit / kUnits, column = unit % kUnits * 4;
    float maximum = tile::kMinusInfinity, sum = 0.0f, total[4] = {};
#pragma unroll
    for (int warp = 0; warp < Config::kConsumerWarps; ++warp) {
      maximum = arch::maximum(maximum, shared.warp_statistics[warp][row][0]);
    }
    const float subtract = maximum == tile::kMinusInfinity ? 0.0f : maximum;
#pragma unroll
    for (int warp = 0; warp < Config::kConsumerWarps; ++warp) {
      const float* const of_warp = shared.warp_statistics[warp][row];
      const float factor = arch::exp2_approx(of_warp[0] - subtract);
      sum = arch::fused_multiply_add(of_warp[1], factor, sum);
      uint32_t words[4];
      arch::load_16_bytes(partial<Config>(shared, warp) + row * Config::kPartialStride + column,
                          words);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        total[c] = arch::fused_multiply_add(arch::bits_float(words[c]), factor, total[c]);
      }
    }
    if (column == 0) {
      shared.statistics[row][0] = maximum;
      shared.statistics[row][1] = sum;
    }
    float* const place = partial<Config>(shared) + row * Config::kPartialStride + column;
    arch::store_16_bytes(place, arch::float_bits(total[0]), arch::float_bits(total[1]),
                         arch::float_bits(total[2]), arch::float_bits(total[3]));
  }
}

// The cluster's parts.
template <class Config>
struct Merge {
  typename Config::SharedMemory& shared;
  const Params& params;
  const Coordinates& at;
  const int rank;

  __device__ __forceinline__ int splits() const { return 1 << params.splits_log2; }

  // Eight columns of one row: adds all parts in the order of the ranks (the same bits always),
  // kRanksAtOnce of them in flight together, and stores the result.
  __device__ __forceinline__ void finish(int row, int column) {
    float maximum = tile::kMinusInfinity, sum = 0.0f;
    float total[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) total[c] = 0.0f;
    for (int first = 0; first < splits(); first += kRanksAtOnce) {
      float statistics[kRanksAtOnce][2], part[kRanksAtOnce][2][4];
      const float* const place = partial<Config>(shared) + row * Config::kPartialStride + column;
#pragma unroll
      for (int i = 0; i < kRanksAtOnce; ++i) {
        if (first + i < splits()) {
          arch::load_from_rank(statistics[i], shared.statistics[row], first + i);
          arch::load_from_rank(part[i][0], place, first + i);
          arch::load_from_rank(part[i][1], place + 4, first + i);
        } else {  // adds exactly nothing
          statistics[i][0] = tile::kMinusInfinity;
          statistics[i][1] = 0.0f;
#pragma unroll
          for (int c = 0; c < 8; ++c) part[i][c / 4][c % 4] = 0.0f;
        }
      }
      const float before = maximum;
#pragma unroll
      for (int i = 0; i < kRanksAtOnce; ++i) maximum = arch::maximum(maximum, statistics[i][0]);
      const float subtract = maximum == tile::kMinusInfinity ? 0.0f : maximum;
      const float correction = arch::exp2_approx(before - subtract);
      sum *= correction;
#pragma unroll
      for (int c = 0; c < 8; ++c) total[c] *= correction;
#pragma unroll
      for (int i = 0; i < kRanksAtOnce; ++i) {
        const float factor = arch::exp2_approx(statistics[i][0] - subtract);
        sum = arch::fused_multiply_add(statistics[i][1], factor, sum);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          total[c] = arch::fused_multiply_add(part[i][c / 4][c % 4], factor, total[c]);
        }
      }
    }
    store(row, column, total, maximum, sum);
  }

  __device__ __forceinline__ void store(int row, int column, const float (&total)[8], float maximum,
                                        float sum) {
    const int query = row / params.packing.heads;
    const int head_of_group = at.first_head + row - query * params.packing.heads;
    if (head_of_group >= static_cast<int>(params.q_heads_per_kv_head.value)) return;
    const int q_head =
        at.kv_head * static_cast<int>(params.q_heads_per_kv_head.value) + head_of_group;
    const int q_row = at.first_query + query;
    if (params.lse != nullptr && column == 0) {
      params.lse[(static_cast<int64_t>(at.batch) * params.q_heads.value + q_head) * params.q_len +
                 q_row] = tile::log_sum_exp(maximum, sum);
    }
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    uint32_t words[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      words[c] = sum == 0.0f ? 0u  // a row that saw nothing may have 0 * NaN
                             : arch::pack<Config::kElement>(total[2 * c] * inverse,
                                                            total[2 * c + 1] * inverse);
    }
    uint16_t* const out = static_cast<uint16_t*>(params.out) + at.batch * params.out_batch_stride +
                          q_head * params.out_head_stride + q_row * params.out_row_stride + column;
    arch::store_16_bytes(out, words[0], words[1], words[2], words[3]);
  }

  // This CTA's share of the tile's output, in units of eight columns.
  __device__ __forceinline__ void run() {
    const int units_per_row = params.v_head_dim / 8;
    const int units = used_rows(params, at) * units_per_row;
    const int share = (units + splits() - 1) >> params.splits_log2;
    const int begin = rank * share;
    const int end = begin + share < units ? begin + share : units;
    for (int unit = begin + arch::thread_index(); unit < end; unit += Config::kConsumerThreads) {
      const int row = unit / units_per_row;
      finish(row, (unit - row * units_per_row) * 8);
    }
  }
};

}  // namespace bsk::sm90::attention_forward_split
