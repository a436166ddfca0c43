// Attention forward for problems of one wave on Hopper: the shortest chain from launch to result.
// DESIGN.md beside this has the picture. Compiled and emulated; never yet run on a GPU.
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
  int batch, q_head, kv_head, first_row, last_row;  // rows of the CTA that exist
  int first_tile, tiles;                            // of keys that some row sees
};

template <class Config>
__device__ __forceinline__ Coordinates coordinates_of(const Params& params) {
  const int head = params.q_tiles.divide(arch::block_index());
  const int q_tile = arch::block_index() - head * static_cast<int>(params.q_tiles.value);
  const int batch = params.q_heads.divide(head);
  const int q_head = head - batch * static_cast<int>(params.q_heads.value);
  const int first_row = q_tile * Config::kQTile;
  const int end_row = first_row + Config::kQTile;
  const int last_row = (end_row < params.q_len ? end_row : params.q_len) - 1;
  const tile::KeyRange range = tile::keys_of_any_row(params.visibility, first_row, last_row);
  const int first_tile = range.begin / Config::kKvTile;
  const int end_tile = (range.end + Config::kKvTile - 1) / Config::kKvTile;
  return {batch,    q_head,     params.q_heads_per_kv_head.divide(q_head),        first_row,
          last_row, first_tile, end_tile > first_tile ? end_tile - first_tile : 0};
}

// One thread of a warpgroup starts the copies of every kWarpgroups-th tile (and warpgroup 0 of Q).
// It also initialises their barriers, so that no copy waits for the block's first synchronisation.
template <class Config>
__device__ __forceinline__ void start_copies(typename Config::SharedMemory& shared,
                                             const Params& params, const Coordinates& at,
                                             int warpgroup) {
  if (warpgroup == 0) arch::barrier_init(shared.q_ready, 1);
  for (int t = warpgroup; t < at.tiles; t += Config::kWarpgroups) {
    arch::barrier_init(shared.k_ready[t], 1);
    arch::barrier_init(shared.v_ready[t], 1);
  }
  arch::fence_barrier_init();
  arch::wait_for_previous_grid();
  if (warpgroup == 0) {
    arch::barrier_arrive_and_expect(shared.q_ready, Config::kQBytes);
    for (int column = 0; column < Config::kHeadDim; column += 64) {
#pragma unroll
      for (int row = 0; row < Config::kQTile; row += 64) {
        arch::load_tile(params.q, shared.q_ready, shared.q + column * Config::kQTile + row * 64,
                        column, at.first_row + row, at.q_head * params.q_head_step,
                        at.batch * params.q_batch_step, arch::CacheHint::kEvictFirst);
      }
    }
  }
  for (int t = warpgroup; t < at.tiles; t += Config::kWarpgroups) {
    const int first_key = (at.first_tile + t) * Config::kKvTile;
    arch::barrier_arrive_and_expect(shared.k_ready[t], Config::kKBytes);
    for (int column = 0; column < Config::kHeadDim; column += 64) {
      arch::load_tile(params.k, shared.k_ready[t], shared.k[t] + column * Config::kKvTile, column,
                      first_key, at.kv_head * params.k_head_step, at.batch * params.k_batch_step,
                      arch::CacheHint::kEvictLast);
    }
    arch::barrier_arrive_and_expect(shared.v_ready[t], Config::kVBytes);
    for (int column = 0; column < Config::kVHeadDim; column += 64) {
      arch::load_tile(params.v, shared.v_ready[t], shared.v[t] + column * Config::kKvTile, column,
                      first_key, at.kv_head * params.v_head_step, at.batch * params.v_batch_step,
                      arch::CacheHint::kEvictLast);
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
  const int row_group, key_group;

  __device__ __forceinline__ int first_row() const { return at.first_row + row_group * 64; }

  // This warpgroup's rows against its tiles of keys.
  __device__ __forceinline__ void compute(float (&o)[kOutputs], tile::SoftmaxRows& rows) {
    arch::barrier_wait(shared.q_ready, 0);
    const tile::KeyRange every =
        tile::keys_of_every_row(params.visibility, first_row(), first_row() + 63);
    for (int t = key_group; t < at.tiles; t += Config::kKeyGroups) {
      float s[kScores];
      uint32_t p[kScores / 2];
      float correction[tile::kRowsPerThread];
      arch::barrier_wait(shared.k_ready[t], 0);
      tile::issue_qk<Config::kElement, Config::kHeadDim, Config::kQTile, Config::kKvTile>(
          s, shared.q + row_group * 64 * arch::kSwizzleElements, shared.k[t]);
      arch::mma_wait<0>();
      arch::mma_fence_registers(s);
      const tile::TileRecord<1> record = {{{(at.first_tile + t) * Config::kKvTile, nullptr}}, 0};
      if (!tile::fully_visible<Config::kKvTile>(record, every)) {
        tile::remove_pairs<Config::kKvTile, 1>(s, record, params.visibility,
                                               first_row() + tile::fragment_row(), 0, 0);
      }
      if (tile::update_maximum<kScores / 4>(s, params.scale_log2, rows, correction)) {
        tile::rescale(o, correction);
      }
      tile::exponentiate<kScores / 4, 0>(s, params.scale_log2, rows);
      tile::pack_weights<Config::kElement>(s, p);
      arch::barrier_wait(shared.v_ready[t], 0);
      tile::issue_pv<Config::kElement, Config::kVHeadDim, Config::kKvTile>(o, p, shared.v[t]);
      arch::mma_wait<0>();
      arch::mma_fence_registers(o);
    }
  }

  // The registers of O in `part`: row part % 2; with four parts columns half part / 2.
  static constexpr __device__ __forceinline__ int part_register(int part, int i) {
    if (Config::kParts == 1) return i;
    const int group = i / 2 + part / 2 * (Config::kPartColumns / 8);
    return 4 * group + part % 2 * 2 + i % 2;
  }

  __device__ __forceinline__ float* merge_slot(int part, int sender, int value) {
    const int place = sender < part ? sender : sender - 1;
    const int slot = (row_group * Config::kParts + part) * (Config::kParts - 1) + place;
    float* const merge = Config::kMergeOverKeys ? reinterpret_cast<float*>(shared.k) : shared.merge;
    return merge + ((slot * Config::kPartValues + value) * arch::kWarpgroupThreads +
                    arch::thread_index() % arch::kWarpgroupThreads * 4);
  }

  // Hands every part but its own to the key group that finishes it. All key groups hold the same
  // fragment layout, so values travel from thread t to thread t.
  __device__ __forceinline__ void send(const float (&o)[kOutputs], const tile::SoftmaxRows& rows) {
#pragma unroll
    for (int r = 0; r < tile::kRowsPerThread; ++r) {
      const int row = row_group * 64 + tile::fragment_row() + 8 * r;
      if (tile::lane_index() % 4 == 0) {
        // A group whose keys are all hidden must not raise the row's maximum.
        shared.maximum[key_group][row] =
            rows.sum[r] == 0.0f ? tile::kMinusInfinity : rows.maximum[r];
        shared.sum[key_group][row] = rows.sum[r];
      }
    }
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
      if (part == key_group) continue;
#pragma unroll
      for (int i = 0; i < Config::kPartValues; i += 4) {
        float* const slot = merge_slot(part, key_group, i);
#pragma unroll
        for (int c = 0; c < 4; ++c) slot[c] = o[part_register(part, i + c)];
      }
    }
  }

  // Adds what the other key groups computed for part kPart and stores it.
  template <int kPart>
  __device__ __forceinline__ void finish_part(const float (&o)[kOutputs]) {
    constexpr int kRow = kPart % 2;
    const int row = row_group * 64 + tile::fragment_row() + 8 * kRow;
    float maximum = tile::kMinusInfinity;
#pragma unroll
    for (int g = 0; g < Config::kKeyGroups; ++g) {
      maximum = arch::maximum(maximum, shared.maximum[g][row]);
    }
    const float subtract = maximum == tile::kMinusInfinity ? 0.0f : maximum;
    float sum = 0.0f;
    float factor[Config::kKeyGroups];
#pragma unroll
    for (int g = 0; g < Config::kKeyGroups; ++g) {
      factor[g] = arch::exp2_approx(shared.maximum[g][row] - subtract);
      sum = arch::fused_multiply_add(shared.sum[g][row], factor[g], sum);
    }
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    float part[Config::kPartValues];
#pragma unroll
    for (int i = 0; i < Config::kPartValues; ++i) part[i] = 0.0f;
#pragma unroll
    for (int g = 0; g < Config::kKeyGroups; ++g) {  // in the groups' order: the same bits always
#pragma unroll
      for (int i = 0; i < Config::kPartValues; i += 4) {
        const float* const slot = g == kPart ? nullptr : merge_slot(kPart, g, i);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float value = g == kPart ? o[part_register(kPart, i + c)] : slot[c];
          part[i + c] = arch::fused_multiply_add(value, factor[g] * inverse, part[i + c]);
        }
      }
    }
    if (params.lse != nullptr && kPart < 2 && tile::lane_index() % 4 == 0) {
      store_lse(kRow, maximum, sum);
    }
    tile::store_row<Config::kElement>(part, out_tile(), params.out_row_stride, kRow,
                                      params.q_len - first_row(), kPart / 2 * Config::kPartColumns,
                                      params.v_head_dim);
  }

  __device__ __forceinline__ void store_lse(int r, float maximum, float sum) {
    const int row = first_row() + tile::fragment_row() + 8 * r;
    if (row >= params.q_len) return;
    params.lse[(static_cast<int64_t>(at.batch) * params.q_heads.value + at.q_head) * params.q_len +
               row] = tile::log_sum_exp(maximum, sum);
  }

  __device__ __forceinline__ uint16_t* out_tile() const {
    return static_cast<uint16_t*>(params.out) + at.batch * params.out_batch_stride +
           at.q_head * params.out_head_stride + first_row() * params.out_row_stride;
  }

  __device__ __forceinline__ void run() {
    float o[kOutputs];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) o[i] = 0.0f;
    tile::SoftmaxRows rows;
    rows.reset();
    compute(o, rows);
    tile::finish_sums(rows);
    if constexpr (Config::kKeyGroups == 1) {
      float factor[tile::kRowsPerThread];
#pragma unroll
      for (int r = 0; r < tile::kRowsPerThread; ++r) {
        factor[r] = rows.sum[r] == 0.0f ? 0.0f : 1.0f / rows.sum[r];
        if (params.lse != nullptr && tile::lane_index() % 4 == 0) {
          store_lse(r, rows.maximum[r], rows.sum[r]);
        }
      }
      tile::store_rows<Config::kElement>(o, factor, out_tile(), params.out_row_stride,
                                         params.q_len - first_row(), params.v_head_dim);
    } else {
      if constexpr (Config::kMergeOverKeys) arch::sync_block();  // nobody reads K and V any more
      send(o, rows);
      arch::sync_block();
      // Registers can't be indexed by key_group: one branch each.
      if (key_group == 0) finish_part<0>(o);
      if (key_group == 1) finish_part<1>(o);
      if constexpr (Config::kKeyGroups == 4) {
        if (key_group == 2) finish_part<2>(o);
        if (key_group == 3) finish_part<3>(o);
      }
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
  Warpgroup<Config>{shared, params, at, warpgroup / Config::kKeyGroups,
                    warpgroup % Config::kKeyGroups}
      .run();
}

}  // namespace bsk::sm90::attention_forward_small
