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

// Row `row` of the packed rows' O over some keys: O, maximum, sum. The parts of a CTA's shares lie
// at `start` Params::share_parts; what warps that multiply each for itself have of them at
// Params::warp_parts.
template <class Config>
__device__ __forceinline__ float* part_row(typename Config::SharedMemory& shared,
                                           const Params& params, int start, int part, int row) {
  const int rows = params.packing.heads * params.packing.queries;
  return reinterpret_cast<float*>(shared.rings() + start) +
         (part * rows + row) * Config::kPartStride;
}
template <class Config>
constexpr int kStatistics = Config::kVHeadDim;  // the column of the maximum; the next is the sum's

// Lays out what a thread has of its two rows, the first of which is `first_row`.
template <class Config>
__device__ __forceinline__ void offer(typename Config::SharedMemory& shared, const Params& params,
                                      int start, int part, const float (&o)[Config::kVHeadDim / 2],
                                      const tile::SoftmaxRows& rows, int first_row, int used) {
#pragma unroll
  for (int r = 0; r < tile::kRowsPerThread; ++r) {
    const int row = first_row + 8 * r;
    if (row >= used) continue;
    float* const of_row = part_row<Config>(shared, params, start, part, row);
    if (tile::lane_index() % 4 == 0) {
      // Keys that are all hidden must not raise the row's maximum.
      of_row[kStatistics<Config>] = rows.seen_maximum(r);
      of_row[kStatistics<Config> + 1] = rows.sum[r];
    }
    float* const place = of_row + tile::fragment_column();
#pragma unroll
    for (int j = 0; j < Config::kVHeadDim / 8; ++j) {
      place[8 * j] = o[4 * j + 2 * r];
      place[8 * j + 1] = o[4 * j + 2 * r + 1];
    }
  }
}

// Makes the parts of shares [begin, end) of the warps', in the order of the warps. Four columns of
// a row are a thread's.
template <class Config>
__device__ __forceinline__ void add_warps(typename Config::SharedMemory& shared,
                                          const Params& params, int begin, int end, int used) {
  constexpr int kUnits = Config::kVHeadDim / 4, kWarps = Config::kConsumerWarps;
#pragma unroll 1
  for (int share = begin; share < end; ++share) {
    const int part = params.parts_together ? share * kWarps : 0;
    for (int unit = arch::thread_index(); unit < used * kUnits; unit += Config::kConsumerThreads) {
      const int row = unit / kUnits, column = unit % kUnits * 4;
      float statistics[kWarps][2], o[kWarps][4];
      float maximum = tile::kMinusInfinity, sum = 0.0f, total[4] = {};
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        const float* const of_row =
            part_row<Config>(shared, params, params.warp_parts, part + warp, row);
        arch::load_8_bytes(of_row + kStatistics<Config>, statistics[warp]);
        arch::load_16_bytes(of_row + column, o[warp]);
        maximum = arch::maximum(maximum, statistics[warp][0]);
      }
      const float subtract = maximum == tile::kMinusInfinity ? 0.0f : maximum;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        const float factor = arch::exp2_approx(statistics[warp][0] - subtract);
        sum = arch::fused_multiply_add(statistics[warp][1], factor, sum);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          total[c] = arch::fused_multiply_add(o[warp][c], factor, total[c]);
        }
      }
      float* const of_share = part_row<Config>(shared, params, params.share_parts, share, row);
      if (column == 0) {
        of_share[kStatistics<Config>] = maximum;
        of_share[kStatistics<Config> + 1] = sum;
      }
      arch::store_16_bytes(of_share + column, arch::float_bits(total[0]),
                           arch::float_bits(total[1]), arch::float_bits(total[2]),
                           arch::float_bits(total[3]));
    }
  }
}

// The cluster's parts.
template <class Config>
struct Merge {
  static constexpr int kColumns = 4;  // of a thread

  typename Config::SharedMemory& shared;
  const Params& params;
  const Coordinates& at;
  const int rank;

  // Four columns of one row, of which this lane has share number `share`. As many lanes as there
  // are shares add them up, in the same order always: the same bits. Every lane of the warp comes
  // here; those where nothing `exists` add nothing.
  __device__ __forceinline__ void finish(bool exists, int row, int column, int share) {
    float statistics[2] = {tile::kMinusInfinity, 0.0f}, o[kColumns] = {};
    if (exists) {
      const int shares_log2 = params.splits_log2 - params.ctas_log2;  // of a CTA
      const float* const of_row = part_row<Config>(shared, params, params.share_parts,
                                                   share & ((1 << shares_log2) - 1), row);
      arch::load_from_rank(statistics, of_row + kStatistics<Config>, share >> shares_log2);
      arch::load_from_rank(o, of_row + column, share >> shares_log2);
    }
    float maximum = statistics[0], sum = statistics[1];
#pragma unroll 1
    for (int distance = 1; distance < 1 << params.splits_log2; distance *= 2) {
      maximum = arch::maximum(maximum, arch::shuffle_xor(maximum, distance));
    }
    const float subtract = maximum == tile::kMinusInfinity ? 0.0f : maximum;
    const float factor = arch::exp2_approx(statistics[0] - subtract);
    sum *= factor;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) o[c] *= factor;
#pragma unroll 1
    for (int distance = 1; distance < 1 << params.splits_log2; distance *= 2) {
      sum += arch::shuffle_xor(sum, distance);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) o[c] += arch::shuffle_xor(o[c], distance);
    }
    if (exists && share == 0) store(row, column, o, maximum, sum);
  }

  __device__ __forceinline__ void store(int row, int column, const float (&total)[kColumns],
                                        float maximum, float sum) {
    const int query = params.by_heads.divide(row);
    const int head_of_group = at.first_head + row - query * params.packing.heads;
    if (head_of_group >= static_cast<int>(params.q_heads_per_kv_head.value)) return;
    const int q_head =
        at.kv_head * static_cast<int>(params.q_heads_per_kv_head.value) + head_of_group;
    const int q_row = at.first_query + query;
    if (params.lse != nullptr && column == 0) {
      params.lse[(static_cast<int64_t>(at.batch) * params.q_heads.value + q_head) * params.q_len +
                 q_row] = tile::log_sum_exp(maximum, sum);
    }
    const float inverse = arch::reciprocal(sum);
    uint32_t words[kColumns / 2];
#pragma unroll
    for (int c = 0; c < kColumns / 2; ++c) {
      words[c] = sum == 0.0f ? 0u  // a row that saw nothing may have 0 * NaN
                             : arch::pack<Config::kElement>(total[2 * c] * inverse,
                                                            total[2 * c + 1] * inverse);
    }
    uint16_t* const out = static_cast<uint16_t*>(params.out) + at.batch * params.out_batch_stride +
                          q_head * params.out_head_stride + q_row * params.out_row_stride + column;
    arch::store_8_bytes(out, words[0], words[1]);
  }

  // This CTA's share of the output, in units of four columns, each for as many lanes as there are
  // shares of the keys.
  __device__ __forceinline__ void run() {
    constexpr int kUnitsPerRow = Config::kVHeadDim / kColumns;
    const int units = used_rows(params, at) * kUnitsPerRow;
    const int of_cta = (units + (1 << params.ctas_log2) - 1) >> params.ctas_log2;
    const int begin = rank * of_cta;
    const int end = begin + of_cta < units ? begin + of_cta : units;
    const int at_once = Config::kConsumerThreads >> params.splits_log2;
    const int thread = arch::thread_index();
    for (int first = begin; first < end; first += at_once) {
      const int unit = first + (thread >> params.splits_log2);
      const int row = unit / kUnitsPerRow, column = unit % kUnitsPerRow * kColumns;
      finish(unit < end && column < params.v_head_dim, row, column,
             thread & ((1 << params.splits_log2) - 1));
    }
  }
};

}  // namespace bsk::sm90::attention_forward_split
