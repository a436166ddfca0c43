// Attention forward for problems of one wave on Hopper: the shortest chain from launch to result.
// DESIGN.md beside this has the picture.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/sm90/attention_forward_small/config.h"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/mask.cuh"
#include "src/cuda/tile/online_softmax.cuh"
#include "src/cuda/tile/products.cuh"
#include "src/cuda/tile/store_rows.cuh"
#include "src/cuda/tile/visible_range.cuh"

namespace bsk::sm90::attention_forward_small {

struct Coordinates {
  int batch, q_head, kv_head, first_row, last_row;  // rows that exist
  int first_tile, end_tile;                         // of keys that some row sees
};

template <class Config>
__device__ __forceinline__ Coordinates coordinates_of(const Params& params) {
  const int head = params.q_tiles.divide(arch::block_index());
  const int q_tile = arch::block_index() - head * static_cast<int>(params.q_tiles.value);
  const int batch = params.q_heads.divide(head);
  const int q_head = head - batch * static_cast<int>(params.q_heads.value);
  const int first_row = q_tile * kRows;
  const int end_row = first_row + kRows;
  const int last_row = (end_row < params.q_len ? end_row : params.q_len) - 1;
  const tile::KeyRange range = tile::keys_of_any_row(params.visibility, first_row, last_row);
  return {batch,
          q_head,
          params.q_heads_per_kv_head.divide(q_head),
          first_row,
          last_row,
          range.begin / Config::kKvTile,
          (range.end + Config::kKvTile - 1) / Config::kKvTile};
}

// Tile t of the keys belongs to chain t % kChains, whatever the rows see: the chains of a row, and
// so its bits, are those of every kernel that works in as many chains. The first of a chain's tiles
// that some row sees:
template <class Config>
__device__ __forceinline__ int first_tile_of(const Coordinates& at, int chain) {
  constexpr int kMask = Config::kChains - 1;
  return at.first_tile + ((chain - at.first_tile) & kMask);
}
// Whether it has a second one.
template <class Config>
__device__ __forceinline__ bool has_second_tile(const Coordinates& at, int first) {
  return Config::kTilesPerChain == 2 && first + Config::kChains < at.end_tile;
}
// The place of a chain's tile i in shared memory.
template <class Config>
__device__ __forceinline__ int place_of(int chain, int i) {
  return i * Config::kChains + chain;
}

// One thread of a chain's first warp initialises the chain's barriers, so that no copy waits for
// the block's first synchronisation, and starts its copies in the order of their use: together they
// would take turns, and the first one would come late.
template <class Config>
struct Copies {
  typename Config::SharedMemory& shared;
  const Params& params;
  const Coordinates at;
  const int chain, first;  // tile

  // The box from `row` on, in chunks of 64 columns and kChunk elements.
  template <int kColumns, int kChunk>
  static __device__ __forceinline__ void load(const arch::TensorMap& map, arch::Barrier& ready,
                                              uint16_t* destination, int row, int head, int batch,
                                              arch::CacheHint hint) {
    arch::barrier_arrive_and_expect(ready, kColumns / 64 * kChunk * 2);
#pragma unroll
    for (int chunk = 0; chunk < kColumns / 64; ++chunk) {
      arch::load_tile(map, ready, destination + chunk * kChunk, chunk * 64, row, head, batch, hint);
    }
  }
  __device__ __forceinline__ void load_q() const {
    load<Config::kHeadDim, 64 * kRows>(
        params.q, shared.q_ready, shared.q, at.first_row, at.q_head * params.q_head_step,
        at.batch * params.q_batch_step, arch::CacheHint::kEvictFirst);
  }
  // Of the chain's tile i.
  __device__ __forceinline__ void load_k(int i) const {
    const int place = place_of<Config>(chain, i);
    load<Config::kHeadDim, 64 * Config::kKvTile>(params.k, shared.k_ready[place], shared.k[place],
                                                 first_key(i), at.kv_head * params.k_head_step,
                                                 at.batch * params.k_batch_step,
                                                 arch::CacheHint::kEvictLast);
  }
  __device__ __forceinline__ void load_v(int i) const {
    const int place = place_of<Config>(chain, i);
    load<Config::kVHeadDim, 64 * Config::kKvTile>(params.v, shared.v_ready[place], shared.v[place],
                                                  first_key(i), at.kv_head * params.v_head_step,
                                                  at.batch * params.v_batch_step,
                                                  arch::CacheHint::kEvictLast);
  }
  __device__ __forceinline__ int first_key(int i) const {
    return (i * Config::kChains + first) * Config::kKvTile;
  }
  __device__ __forceinline__ void start() const {
    if (chain == 0) arch::barrier_init(shared.q_ready, 1);
#pragma unroll
    for (int i = 0; i < Config::kTilesPerChain; ++i) {
      arch::barrier_init(shared.k_ready[place_of<Config>(chain, i)], 1);
      arch::barrier_init(shared.v_ready[place_of<Config>(chain, i)], 1);
    }
    arch::fence_barrier_init();
    arch::wait_for_previous_grid();
    if (at.first_tile >= at.end_tile) return;  // no chain waits for Q
    if (chain == 0) load_q();
    if (first >= at.end_tile) return;
    load_k(0);
    load_v(0);
    if (has_second_tile<Config>(at, first)) {
      load_k(1);
      load_v(1);
    }
  }
};

template <class Config>
struct Warpgroup {
  using SharedMemory = typename Config::SharedMemory;
  static constexpr int kScores = Config::kKvTile / 2;  // registers
  static constexpr int kOutputs = Config::kVHeadDim / 2;

  SharedMemory& shared;
  const Params& params;
  const Coordinates at;
  const int chain;  // this warpgroup

  __device__ __forceinline__ void issue_qk(float (&s)[kScores], int i) {
    tile::issue_qk<Config::kElement, Config::kHeadDim, kRows, Config::kKvTile>(
        s, shared.q, shared.k[place_of<Config>(chain, i)]);
  }

  // All rows against this chain's tiles of keys. The last product is under way at the end. The
  // scores of both tiles are computed at once, and the second softmax runs beside the first P V.
  __device__ __forceinline__ void compute(float (&o)[kOutputs], uint32_t (&p)[kScores / 2],
                                          tile::SoftmaxRows& rows) {
    const int first = first_tile_of<Config>(at, chain);
    if (first >= at.end_tile) return;
    const bool two = has_second_tile<Config>(at, first);
    float s[Config::kTilesPerChain][kScores];
    arch::barrier_wait(shared.q_ready, 0);
    arch::barrier_wait(shared.k_ready[place_of<Config>(chain, 0)], 0);
    issue_qk(s[0], 0);
    if constexpr (Config::kTilesPerChain == 2) {
      // Where there is no second tile its scores are of whatever is in its place, and not looked
      // at: a branch here would make ptxas serialise the products.
      if (two) arch::barrier_wait(shared.k_ready[place_of<Config>(chain, 1)], 0);
      issue_qk(s[1], 1);
    }
    arch::mma_wait<Config::kTilesPerChain - 1>();
    this->template add_tile<true>(s[0], p, o, rows, first);
    if constexpr (Config::kTilesPerChain == 2) {
      if (two) this->template add_tile<false>(s[1], p, o, rows, first + Config::kChains);
    }
  }

  // Scores of a tile to weights, and issues its P V. kFirst: O holds nothing yet.
  template <bool kFirst>
  __device__ __forceinline__ void add_tile(float (&s)[kScores], uint32_t (&p)[kScores / 2],
                                           float (&o)[kOutputs], tile::SoftmaxRows& rows,
                                           int tile) {
    const tile::TileRecord<1> record = {{{tile * Config::kKvTile, nullptr}}, 0};
    const tile::KeyRange every =
        tile::keys_of_every_row(params.visibility, at.first_row, at.first_row + kRows - 1);
    arch::mma_fence_registers(s);
    if (!tile::fully_visible<Config::kKvTile>(record, every)) {
      tile::remove_pairs<Config::kKvTile, 1>(s, record, params.visibility,
                                             at.first_row + tile::fragment_row(), 0, 0);
    }
    float correction[tile::kRowsPerThread];
    bool grown = false;
    if constexpr (kFirst) {
      tile::first_maxima<kScores / 4>(s, params.scale_log2, rows);
    } else {
      grown = tile::update_maxima<Config::kElement, kScores / 4>(s, params.scale_log2, rows,
                                                                 correction);
    }
    tile::exponentiate<kScores / 4>(s, params.scale_log2, rows);
    arch::mma_wait<0>();
    arch::mma_fence_registers(o);
    if (grown) tile::rescale(o, correction);
    tile::pack_weights<Config::kElement>(s, p);
    const int place = place_of<Config>(chain, kFirst ? 0 : 1);
    arch::barrier_wait(shared.v_ready[place], 0);
    tile::issue_pv<Config::kElement, Config::kVHeadDim, Config::kKvTile>(o, p, shared.v[place]);
  }

  // The registers of O in `part`, row `part` of the fragment's two.
  static constexpr __device__ __forceinline__ int part_register(int part, int i) {
    return i / 2 * 4 + part * 2 + i % 2;
  }

  // Where the chain that finishes `part` gets what the other has of it.
  __device__ __forceinline__ float* merge_slot(int part, int value) {
    return shared.merge + ((part * Config::kPartValues + value) * arch::kWarpgroupThreads +
                           arch::thread_index() % arch::kWarpgroupThreads * 4);
  }

  // What the other chain finishes goes to it: row 1 - chain of the fragment's two. Both hold the
  // same fragment layout, so values travel from thread t to thread t.
  __device__ __forceinline__ void send_statistics(const tile::SoftmaxRows& rows) {
    const int row = tile::fragment_row() + 8 * (1 - chain);
    if (tile::lane_index() % 4 == 0) {
      shared.maximum[chain][row] = chain == 0 ? rows.seen_maximum(1) : rows.seen_maximum(0);
      shared.sum[chain][row] = chain == 0 ? rows.sum[1] : rows.sum[0];
    }
  }
  template <int kPart>
  __device__ __forceinline__ void send_part(const float (&o)[kOutputs]) {
#pragma unroll
    for (int i = 0; i < Config::kPartValues; i += 4) {
      float* const slot = merge_slot(kPart, i);
#pragma unroll
      for (int c = 0; c < 4; ++c) slot[c] = o[part_register(kPart, i + c)];
    }
  }

  // Adds what the other chain computed for part kPart, in the chains' order, and stores it.
  template <int kPart>
  __device__ __forceinline__ void finish_part(const float (&o)[kOutputs],
                                              const tile::SoftmaxRows& rows) {
    constexpr int kOther = 1 - kPart;
    const int row = tile::fragment_row() + 8 * kPart;
    const float maxima[2] = {kPart == 0 ? rows.seen_maximum(kPart) : shared.maximum[kOther][row],
                             kPart == 1 ? rows.seen_maximum(kPart) : shared.maximum[kOther][row]};
    const float sums[2] = {kPart == 0 ? rows.sum[kPart] : shared.sum[kOther][row],
                           kPart == 1 ? rows.sum[kPart] : shared.sum[kOther][row]};
    float maximum = maxima[0], sum = sums[0];
    const tile::Factors factors = tile::combine(maximum, sum, maxima[1], sums[1]);
    const float inverse = sum == 0.0f ? 0.0f : arch::reciprocal(sum);
    float part[Config::kPartValues];
#pragma unroll
    for (int i = 0; i < Config::kPartValues; i += 4) {
      const float* const slot = merge_slot(kPart, i);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float own = o[part_register(kPart, i + c)];
        const float value = kPart == 0 ? factors.apply(own, slot[c]) : factors.apply(slot[c], own);
        // A row that saw nothing may have 0 * NaN.
        part[i + c] = inverse == 0.0f ? 0.0f : value * inverse;
      }
    }
    if (params.lse != nullptr && tile::lane_index() % 4 == 0) {
      store_lse(kPart, maximum, sum);
    }
    tile::store_row<Config::kElement>(part, out_tile(), params.out_row_stride, kPart,
                                      params.q_len - at.first_row, 0, params.v_head_dim);
  }

  __device__ __forceinline__ void store_lse(int r, float maximum, float sum) {
    const int row = at.first_row + tile::fragment_row() + 8 * r;
    if (row >= params.q_len) return;
    params.lse[(static_cast<int64_t>(at.batch) * params.q_heads.value + at.q_head) * params.q_len +
               row] = tile::log_sum_exp(maximum, sum);
  }

  __device__ __forceinline__ uint16_t* out_tile() const {
    return static_cast<uint16_t*>(params.out) + at.batch * params.out_batch_stride +
           at.q_head * params.out_head_stride + at.first_row * params.out_row_stride;
  }

  __device__ __forceinline__ void run() {
    float o[kOutputs];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) o[i] = 0.0f;
    tile::SoftmaxRows rows;
    rows.reset();
    uint32_t p[kScores / 2];  // as long as the product that reads it
    compute(o, p, rows);
    tile::finish_sums(rows);
    if constexpr (Config::kChains == 1) {
      float factor[tile::kRowsPerThread];
#pragma unroll
      for (int r = 0; r < tile::kRowsPerThread; ++r) {
        factor[r] = rows.sum[r] == 0.0f ? 0.0f : arch::reciprocal(rows.sum[r]);
        if (params.lse != nullptr && tile::lane_index() % 4 == 0) {
          store_lse(r, rows.maximum[r], rows.sum[r]);
        }
      }
      arch::mma_wait<0>();
      arch::mma_fence_registers(o);
      tile::store_rows<Config::kElement>(o, factor, out_tile(), params.out_row_stride,
                                         params.q_len - at.first_row, params.v_head_dim);
    } else {
      send_statistics(rows);
      arch::mma_wait<0>();
      arch::mma_fence_registers(o);
      // Registers can't be indexed by the chain: one branch each.
      if (chain == 0) send_part<1>(o);
      if (chain == 1) send_part<0>(o);
      arch::sync_block();
      if (chain == 0) finish_part<0>(o, rows);
      if (chain == 1) finish_part<1>(o, rows);
    }
  }
};

template <class Config>
__device__ __forceinline__ void attention_forward_small(const Params& params) {
  auto& shared = *static_cast<typename Config::SharedMemory*>(arch::shared_memory());
  const int warpgroup = tile::warpgroup_index();
  const Coordinates at = coordinates_of<Config>(params);
  if (tile::warp_index() % 4 == 0 && arch::elect_one()) {
    Copies<Config>{shared, params, at, warpgroup, first_tile_of<Config>(at, warpgroup)}.start();
  }
  arch::let_next_grid_start();
  arch::sync_block();  // the barriers are initialised
  arch::wait_for_previous_grid();
  Warpgroup<Config>{shared, params, at, warpgroup}.run();
}

}  // namespace bsk::sm90::attention_forward_small
