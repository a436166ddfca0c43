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
// Its place in shared memory.
template <class Config>
__device__ __forceinline__ int place_of(int tile, int first_tile, int chain) {
  return tile - first_tile + chain;
}

// One thread of a warpgroup starts the copies of its tiles (and chain 0 of Q). It also
// initialises their barriers, so that no copy waits for the block's first synchronisation.
template <class Config>
__device__ __forceinline__ void start_copies(typename Config::SharedMemory& shared,
                                             const Params& params, const Coordinates& at,
                                             int chain) {
  const int first = first_tile_of<Config>(at, chain);
  if (chain == 0) arch::barrier_init(shared.q_ready, 1);
#pragma unroll
  for (int place = 0; place < Config::kTiles; place += Config::kChains) {
    arch::barrier_init(shared.k_ready[place + chain], 1);
    arch::barrier_init(shared.v_ready[place + chain], 1);
  }
  arch::fence_barrier_init();
  arch::wait_for_previous_grid();
  if (chain == 0) {
    arch::barrier_arrive_and_expect(shared.q_ready, Config::kQBytes);
    for (int column = 0; column < Config::kHeadDim; column += 64) {
      arch::load_tile(params.q, shared.q_ready, shared.q + column * kRows, column, at.first_row,
                      at.q_head * params.q_head_step, at.batch * params.q_batch_step,
                      arch::CacheHint::kEvictFirst);
    }
  }
  for (int t = first; t < at.end_tile; t += Config::kChains) {
    const int place = place_of<Config>(t, first, chain);
    const int first_key = t * Config::kKvTile;
    arch::barrier_arrive_and_expect(shared.k_ready[place], Config::kKBytes);
    for (int column = 0; column < Config::kHeadDim; column += 64) {
      arch::load_tile(params.k, shared.k_ready[place], shared.k[place] + column * Config::kKvTile,
                      column, first_key, at.kv_head * params.k_head_step,
                      at.batch * params.k_batch_step, arch::CacheHint::kEvictLast);
    }
    arch::barrier_arrive_and_expect(shared.v_ready[place], Config::kVBytes);
    for (int column = 0; column < Config::kVHeadDim; column += 64) {
      arch::load_tile(params.v, shared.v_ready[place], shared.v[place] + column * Config::kKvTile,
                      column, first_key, at.kv_head * params.v_head_step,
                      at.batch * params.v_batch_step, arch::CacheHint::kEvictLast);
    }
  }
}

template <class Config>
struct Warpgroup {
  using SharedMemory = typename Config::SharedMemory;
  static constexpr int kScores = Config::kKvTile / 2;  // registers
  static constexpr int kOutputs = Config::kVHeadDim / 2;

  SharedMemory& shared;
  const Params& params;
  const Coordinates at;
  const int chain;  // this warpgroup

  // All rows against this chain's tiles of keys.
  __device__ __forceinline__ void compute(float (&o)[kOutputs], tile::SoftmaxRows& rows) {
    arch::barrier_wait(shared.q_ready, 0);
    const tile::KeyRange every =
        tile::keys_of_every_row(params.visibility, at.first_row, at.first_row + kRows - 1);
    const int first = first_tile_of<Config>(at, chain);
    for (int t = first; t < at.end_tile; t += Config::kChains) {
      const int place = place_of<Config>(t, first, chain);
      float s[kScores];
      uint32_t p[kScores / 2];
      float correction[tile::kRowsPerThread];
      arch::barrier_wait(shared.k_ready[place], 0);
      tile::issue_qk<Config::kElement, Config::kHeadDim, kRows, Config::kKvTile>(s, shared.q,
                                                                                 shared.k[place]);
      arch::mma_wait<0>();
      arch::mma_fence_registers(s);
      const tile::TileRecord<1> record = {{{t * Config::kKvTile, nullptr}}, 0};
      if (!tile::fully_visible<Config::kKvTile>(record, every)) {
        tile::remove_pairs<Config::kKvTile, 1>(s, record, params.visibility,
                                               at.first_row + tile::fragment_row(), 0, 0);
      }
      if (tile::update_maxima<Config::kElement, kScores / 4>(s, params.scale_log2, rows,
                                                             correction)) {
        tile::rescale(o, correction);
      }
      tile::exponentiate<kScores / 4>(s, params.scale_log2, rows);
      tile::pack_weights<Config::kElement>(s, p);
      arch::barrier_wait(shared.v_ready[place], 0);
      tile::issue_pv<Config::kElement, Config::kVHeadDim, Config::kKvTile>(o, p, shared.v[place]);
      arch::mma_wait<0>();
      arch::mma_fence_registers(o);
    }
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

  // Hands the part that the other chain finishes to it, and the row statistics. Both hold the same
  // fragment layout, so values travel from thread t to thread t.
  __device__ __forceinline__ void send(const float (&o)[kOutputs], const tile::SoftmaxRows& rows) {
#pragma unroll
    for (int r = 0; r < tile::kRowsPerThread; ++r) {
      const int row = tile::fragment_row() + 8 * r;
      if (tile::lane_index() % 4 == 0) {
        shared.maximum[chain][row] = rows.seen_maximum(r);
        shared.sum[chain][row] = rows.sum[r];
      }
    }
#pragma unroll
    for (int part = 0; part < Config::kChains; ++part) {
      if (part == chain) continue;
#pragma unroll
      for (int i = 0; i < Config::kPartValues; i += 4) {
        float* const slot = merge_slot(part, i);
#pragma unroll
        for (int c = 0; c < 4; ++c) slot[c] = o[part_register(part, i + c)];
      }
    }
  }

  // Adds what the other chain computed for part kPart, in the chains' order, and stores it.
  template <int kPart>
  __device__ __forceinline__ void finish_part(const float (&o)[kOutputs]) {
    const int row = tile::fragment_row() + 8 * kPart;
    float maximum = tile::kMinusInfinity, sum = 0.0f;
    float part[Config::kPartValues];
#pragma unroll
    for (int i = 0; i < Config::kPartValues; ++i) part[i] = 0.0f;
#pragma unroll
    for (int g = 0; g < Config::kChains; ++g) {
      const tile::Factors factors =
          tile::combine(maximum, sum, shared.maximum[g][row], shared.sum[g][row]);
#pragma unroll
      for (int i = 0; i < Config::kPartValues; i += 4) {
        const float* const slot = g == kPart ? nullptr : merge_slot(kPart, i);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float value = g == kPart ? o[part_register(kPart, i + c)] : slot[c];
          part[i + c] = factors.apply(part[i + c], value);
        }
      }
    }
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
    for (int i = 0; i < Config::kPartValues; ++i) {  // a row that saw nothing may have 0 * NaN
      part[i] = inverse == 0.0f ? 0.0f : part[i] * inverse;
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
    compute(o, rows);
    tile::finish_sums(rows);
    if constexpr (Config::kChains == 1) {
      float factor[tile::kRowsPerThread];
#pragma unroll
      for (int r = 0; r < tile::kRowsPerThread; ++r) {
        factor[r] = rows.sum[r] == 0.0f ? 0.0f : 1.0f / rows.sum[r];
        if (params.lse != nullptr && tile::lane_index() % 4 == 0) {
          store_lse(r, rows.maximum[r], rows.sum[r]);
        }
      }
      tile::store_rows<Config::kElement>(o, factor, out_tile(), params.out_row_stride,
                                         params.q_len - at.first_row, params.v_head_dim);
    } else {
      send(o, rows);
      arch::sync_block();
      // Registers can't be indexed by the chain: one branch each.
      if (chain == 0) finish_part<0>(o);
      if (chain == 1) finish_part<1>(o);
    }
  }
};

template <class Config>
__device__ __forceinline__ void attention_forward_small(const Params& params) {
  auto& shared = *static_cast<typename Config::SharedMemory*>(arch::shared_memory());
  const int warpgroup = tile::warpgroup_index();
  if (arch::thread_index() == 0) {
    arch::prefetch_tensor_map(params.q);
    arch::prefetch_tensor_map(params.k);
    arch::prefetch_tensor_map(params.v);
  }
  const Coordinates at = coordinates_of<Config>(params);
  if (arch::thread_index() % arch::kWarpgroupThreads == 0) {
    start_copies<Config>(shared, params, at, warpgroup);
  }
  arch::let_next_grid_start();
  arch::sync_block();  // the barriers are initialised
  arch::wait_for_previous_grid();
  Warpgroup<Config>{shared, params, at, warpgroup}.run();
}

}  // namespace bsk::sm90::attention_forward_small
