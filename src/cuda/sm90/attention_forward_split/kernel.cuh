// Attention forward for few queries against many keys on Hopper: the CTAs of a cluster share the
// keys and merge through distributed shared memory. DESIGN.md beside this has the picture.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/cluster.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/arch/wgmma.cuh"
#include "src/cuda/sm90/attention_forward_split/config.h"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/online_softmax.cuh"
#include "src/cuda/tile/packed_rows.cuh"
#include "src/cuda/tile/products.cuh"
#include "src/cuda/tile/ring.cuh"
#include "src/cuda/tile/visible_range.cuh"

namespace bsk::sm90::attention_forward_split {

constexpr int kConsumersBarrier = 1;  // named barrier of the four consumer warps
constexpr int kRanksAtOnce = 8;       // whose parts a thread loads before it adds them

struct Coordinates {
  int batch, kv_head;
  int first_head;              // in the group
  int first_query, end_query;  // that exist
  int first_tile, tiles;       // of keys: this CTA's share of those that some query sees
};

template <class Config>
__device__ __forceinline__ Coordinates coordinates_of(const Params& params, int rank) {
  const Packing& packing = params.packing;
  const int cluster = arch::block_index() >> params.splits_log2;
  const int tiles_per_head = packing.head_tiles * packing.q_tiles;
  int batch = cluster, tile = 0, q_tile = 0;
  if (tiles_per_head > 1) {
    batch = cluster / tiles_per_head;
    tile = cluster - batch * tiles_per_head;
    q_tile = tile / packing.head_tiles;
  }
  const int first_query = q_tile * packing.queries;
  const int end = first_query + packing.queries;
  const int end_query = end < params.q_len ? end : params.q_len;
  const tile::KeyRange range = tile::keys_of_any_row(params.visibility, first_query, end_query - 1);
  const int first_tile = range.begin / Config::kKvTile;
  const int end_tile = (range.end + Config::kKvTile - 1) / Config::kKvTile;
  const int tiles = end_tile > first_tile ? end_tile - first_tile : 0;
  const int begin = rank * tiles >> params.splits_log2;  // tiles < 2^25
  return {batch,
          arch::block_index_y(),
          (tile - q_tile * packing.head_tiles) * packing.heads,
          first_query,
          end_query,
          first_tile + begin,
          ((rank + 1) * tiles >> params.splits_log2) - begin};
}

// --- Producer: one thread ------------------------------------------------------------------------

template <class Config>
struct Producer {
  using SharedMemory = typename Config::SharedMemory;

  SharedMemory& shared;
  const Params& params;
  const Coordinates at;
  tile::RingPosition<Config::kStages> ring;

  __device__ __forceinline__ void load_q() {
    const Packing& packing = params.packing;
    arch::barrier_arrive_and_expect(
        shared.q_ready,
        static_cast<uint32_t>(packing.heads * packing.queries * Config::kQKColumns * 2));
    for (int column = 0; column < Config::kQKColumns; column += arch::kSwizzleElements) {
      arch::load_tile(params.q, shared.q_ready, shared.q + column * kRows, column, at.first_head,
                      at.first_query, at.kv_head * params.q_head_step,
                      at.batch * params.q_batch_step, arch::CacheHint::kNormal);
    }
  }

  __device__ __forceinline__ void load(const arch::TensorMap& map, int tile, int columns, int head,
                                       int batch) {
    arch::barrier_wait(shared.stage_free[ring.stage], ring.parity ^ 1);
    arch::Barrier& ready = shared.stage_ready[ring.stage];
    arch::barrier_arrive_and_expect(ready, static_cast<uint32_t>(Config::kKvTile * columns * 2));
    for (int column = 0; column < columns; column += arch::kSwizzleElements) {
      arch::load_tile(map, ready, shared.stages[ring.stage] + column * Config::kKvTile, column,
                      (at.first_tile + tile) * Config::kKvTile, head, batch,
                      arch::CacheHint::kNormal);
    }
    ring.advance();
  }
  __device__ __forceinline__ void load_k(int tile) {
    load(params.k, tile, Config::kQKColumns, at.kv_head * params.k_head_step,
         at.batch * params.k_batch_step);
  }
  __device__ __forceinline__ void load_v(int tile) {
    load(params.v, tile, Config::kVColumns, at.kv_head * params.v_head_step,
         at.batch * params.v_batch_step);
  }

  __device__ __forceinline__ void run() {
    if (at.tiles == 0) return;
    load_q();
    load_k(0);
#pragma unroll 1
    for (int tile = 0; tile < at.tiles; ++tile) {
      if (tile + 1 < at.tiles) load_k(tile + 1);
      load_v(tile);
    }
  }
};

// --- Consumer: one warpgroup, the 64 packed rows -------------------------------------------------

template <class Config>
struct Consumer {
  using SharedMemory = typename Config::SharedMemory;
  static constexpr int kScores = Config::kKvTile / 2;  // registers
  static constexpr int kOutputs = Config::kVHeadDim / 2;
  static constexpr int kNoStage = -1;

  SharedMemory& shared;
  const Params& params;
  const Coordinates at;
  const int rank;
  tile::RingPosition<Config::kStages> ring;
  tile::KeyRange ranges[tile::kRowsPerThread], every;
  int64_t mask_rows[tile::kRowsPerThread];

  __device__ __forceinline__ int splits() const { return 1 << params.splits_log2; }
  __device__ __forceinline__ int used_rows() const {
    return params.packing.heads * (at.end_query - at.first_query);
  }

  // What a thread's two rows are. Rows that nothing uses do as the last one that is used.
  __device__ __forceinline__ void find_rows() {
    every = tile::keys_of_every_row(params.visibility, at.first_query, at.end_query - 1);
#pragma unroll
    for (int r = 0; r < tile::kRowsPerThread; ++r) {
      const int row = tile::fragment_row() + 8 * r;
      const int existing = row < used_rows() ? row : used_rows() - 1;
      const int query = existing / params.packing.heads;
      ranges[r] = tile::keys_of_row(params.visibility, at.first_query + query);
      if constexpr (Config::kMask != tile::MaskType::kNone) {
        const int head = at.first_head + existing - query * params.packing.heads;
        const int last_head = static_cast<int>(params.q_heads_per_kv_head.value) - 1;
        const int q_head = at.kv_head * static_cast<int>(params.q_heads_per_kv_head.value) +
                           (head < last_head ? head : last_head);
        mask_rows[r] = at.batch * params.mask.batch_stride + q_head * params.mask.head_stride +
                       (at.first_query + query) * params.mask.row_stride;
      }
    }
  }

  __device__ __forceinline__ int wait_stage() { return tile::wait_stage(shared.stage_ready, ring); }
  __device__ __forceinline__ void free_stage(int stage) {
    if (tile::lane_index() == 0) arch::barrier_arrive(shared.stage_free[stage]);
  }

  __device__ __forceinline__ void issue_qk(float (&s)[kScores], int stage) {
    tile::issue_qk<Config::kElement, Config::kHeadDim, kRows, Config::kKvTile>(
        s, shared.q, shared.stages[stage]);
  }
  __device__ __forceinline__ void issue_pv(float (&o)[kOutputs], const uint32_t (&p)[kScores / 2],
                                           int stage) {
    tile::issue_pv<Config::kElement, Config::kVHeadDim, Config::kKvTile>(o, p,
                                                                         shared.stages[stage]);
  }

  // Scores to weights; true where O must be corrected.
  __device__ __forceinline__ bool softmax(float (&s)[kScores], int tile, tile::SoftmaxRows& rows,
                                          float (&correction)[tile::kRowsPerThread]) {
    const int first_key = (at.first_tile + tile) * Config::kKvTile;
    if constexpr (Config::kTransform) tile::transform_scores(s, params.transform);
    if constexpr (Config::kMask != tile::MaskType::kNone) {
      tile::apply_mask_rows<Config::kMask, Config::kKvTile>(s, first_key, params.mask, mask_rows,
                                                            params.visibility.kv_len);
    }
    if (first_key < every.begin || first_key + Config::kKvTile > every.end) {
      tile::remove_outside<Config::kKvTile>(s, first_key, ranges);
    }
    const float scale_log2 = Config::kTransform ? 1.0f : params.scale_log2;
    const bool grown =
        tile::update_maxima<Config::kElement, kScores / 4>(s, scale_log2, rows, correction);
    tile::exponentiate<kScores / 4>(s, scale_log2, rows);
    return grown;
  }

  // Completes the tile before: its P V is in O, its V's stage is free, and this tile's weights take
  // its place as the operand of the next product.
  __device__ __forceinline__ void settle(float (&o)[kOutputs], float (&s)[kScores],
                                         uint32_t (&p)[kScores / 2], bool grown,
                                         const float (&correction)[tile::kRowsPerThread],
                                         int v_stage) {
    arch::mma_wait<0>();
    arch::mma_fence_registers(o);
    arch::mma_fence_registers(s);
    if (v_stage != kNoStage) free_stage(v_stage);
    if (grown) tile::rescale(o, correction);
    tile::pack_weights<Config::kElement>(s, p);
  }

  // The tile of queries against this CTA's keys: QK of the next tile is issued before PV of this
  // one, so that the softmax between them runs under a product.
  __device__ __forceinline__ void compute(float (&o)[kOutputs], tile::SoftmaxRows& rows) {
    float s[kScores];
    uint32_t p[kScores / 2];
    float correction[tile::kRowsPerThread];

    arch::barrier_wait(shared.q_ready, 0);
    int k_stage = wait_stage(), v_stage = kNoStage;
    issue_qk(s, k_stage);
    arch::mma_wait<0>();
    for (int tile = 0;; ++tile) {
      arch::mma_fence_registers(s);
      const bool grown = softmax(s, tile, rows, correction);
      // K is released late, to keep the exponentials in front of the waits below: ptxas moves
      // arithmetic across barriers and branches, and only a data dependency holds it.
      free_stage(arch::order_after(k_stage, rows.sum[0] + rows.sum[1]));
      const bool more = tile + 1 < at.tiles;
      if (more) k_stage = wait_stage();
      settle(o, s, p, grown, correction, v_stage);
      if (!more) break;
      issue_qk(s, k_stage);
      v_stage = wait_stage();
      issue_pv(o, p, v_stage);
      arch::mma_wait<1>();
    }
    v_stage = wait_stage();
    issue_pv(o, p, v_stage);
    arch::mma_wait<0>();
    arch::mma_fence_registers(o);
  }

  // [kRows][kPartialStride]: O of this CTA's keys, where the ring was.
  __device__ __forceinline__ float* partial() { return reinterpret_cast<float*>(shared.stages); }

  // Lays this CTA's part out for the cluster.
  __device__ __forceinline__ void offer(const float (&o)[kOutputs], const tile::SoftmaxRows& rows) {
    arch::named_barrier_sync(kConsumersBarrier, arch::kWarpgroupThreads);  // the ring is read
#pragma unroll
    for (int r = 0; r < tile::kRowsPerThread; ++r) {
      const int row = tile::fragment_row() + 8 * r;
      if (row >= used_rows()) continue;
      if (tile::lane_index() % 4 == 0) {
        // Keys that are all hidden must not raise the row's maximum.
        shared.statistics[row][0] = rows.sum[r] == 0.0f ? tile::kMinusInfinity : rows.maximum[r];
        shared.statistics[row][1] = rows.sum[r];
      }
      float* const place = partial() + row * Config::kPartialStride + tile::fragment_column();
#pragma unroll
      for (int j = 0; j < kOutputs / 4; ++j) {
        place[8 * j] = o[4 * j + 2 * r];
        place[8 * j + 1] = o[4 * j + 2 * r + 1];
      }
    }
  }

  // Eight columns of one row: adds all parts in the order of the ranks (the same bits always),
  // kRanksAtOnce of them in flight together, and stores the result.
  __device__ __forceinline__ void finish(int row, int column) {
    float maximum = tile::kMinusInfinity, sum = 0.0f;
    float total[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) total[c] = 0.0f;
    for (int first = 0; first < splits(); first += kRanksAtOnce) {
      float statistics[kRanksAtOnce][2], part[kRanksAtOnce][2][4];
      const float* const place = partial() + row * Config::kPartialStride + column;
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
  __device__ __forceinline__ void merge() {
    const int units_per_row = params.v_head_dim / 8;
    const int units = used_rows() * units_per_row;
    const int share = (units + splits() - 1) >> params.splits_log2;
    const int begin = rank * share;
    const int end = begin + share < units ? begin + share : units;
    for (int unit = begin + arch::thread_index(); unit < end; unit += arch::kWarpgroupThreads) {
      const int row = unit / units_per_row;
      finish(row, (unit - row * units_per_row) * 8);
    }
  }

  __device__ __forceinline__ void attend() {
    find_rows();
    float o[kOutputs];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) o[i] = 0.0f;
    tile::SoftmaxRows rows;
    rows.reset();
    if (at.tiles > 0) compute(o, rows);
    tile::finish_sums(rows);
    offer(o, rows);
  }
};

template <class Config>
__device__ __forceinline__ void attention_forward_split(const Params& params) {
  using SharedMemory = typename Config::SharedMemory;
  SharedMemory& shared = *static_cast<SharedMemory*>(arch::shared_memory());
  const int rank = arch::cluster_rank();
  const Coordinates at = coordinates_of<Config>(params, rank);
  const bool consumes = tile::warpgroup_index() == 0;

  if (arch::thread_index() == arch::kWarpgroupThreads) {  // the producer's
    arch::prefetch_tensor_map(params.q);
    arch::prefetch_tensor_map(params.k);
    arch::prefetch_tensor_map(params.v);
    arch::barrier_init(shared.q_ready, 1);
    for (int stage = 0; stage < Config::kStages; ++stage) {
      arch::barrier_init(shared.stage_ready[stage], 1);
      arch::barrier_init(shared.stage_free[stage], 4);  // consumer warps
    }
    arch::fence_barrier_init();
  }
  arch::sync_block();
  arch::wait_for_previous_grid();

  Consumer<Config> consumer{shared, params, at, rank, {}, {}, {}, {}};
  if (consumes) {
    consumer.attend();
  } else if (tile::lane_index() == 0) {
    Producer<Config>{shared, params, at, {}}.run();
  }
  arch::let_next_grid_start();
  arch::sync_warp();     // the cluster's barrier takes whole warps
  arch::sync_cluster();  // every CTA's part is there
  if (consumes) consumer.merge();
  arch::sync_warp();
  arch::sync_cluster();  // every CTA's part has been read
}

}  // namespace bsk::sm90::attention_forward_split
