// Four warps that multiply each for itself, for tiles of up to 16 packed rows: a warp has some keys
// of a tile, its own maxima and its own O, and waits for no other warp before the end.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/sm90/attention_forward_split/merge.cuh"
#include "src/cuda/sm90/attention_forward_split/scores.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/ring.cuh"
#include "src/cuda/tile/warp_products.cuh"

namespace bsk::sm90::attention_forward_split {

template <class Config>
struct WarpConsumer {
  using SharedMemory = typename Config::SharedMemory;
  static constexpr int kKeys = Config::kWarpKeys;
  static constexpr int kSteps = Config::kHeadDim / 16;  // of Q K
  static constexpr int kOutputs = Config::kVHeadDim / 2;
  // Wide rows of O leave no registers for Q, and neither does attn_mask.
  static constexpr bool kKeepsQ =
      Config::kVHeadDim <= 128 && Config::kHeadDim <= 128 && Config::kMask == tile::MaskType::kNone;

  SharedMemory& shared;
  const Coordinates& at;
  const int warp;
  const PackedRows<Config> packed;
  const tile::MatrixPlace<tile::kWarpRows, false> q_place;
  const tile::MatrixPlace<Config::kKvTile, true> k_place;
  const tile::MatrixPlace<Config::kKvTile, false> v_place;
  tile::RingPosition<Config::kStages> ring;
  uint32_t q[kKeepsQ ? kSteps : 1][4];

  __device__ __forceinline__ WarpConsumer(SharedMemory& shared, const Params& params,
                                          const Coordinates& at)
      : shared(shared),
        at(at),
        warp(tile::warp_index()),
        packed(params, at, tile::lane_index() / 4) {}

  // The warps of one group share a tile's keys; the next tile is for the next ones.
  __device__ __forceinline__ int group() const { return warp / Config::kWarpsPerTile; }
  __device__ __forceinline__ int first_key() const {  // in the tile
    return warp % Config::kWarpsPerTile * kKeys;
  }

  __device__ __forceinline__ void load_q(int step, uint32_t (&a)[4]) {
    tile::load_q_step(shared.q, step, used_rows(packed.params, at), q_place, a);
  }
  // Every lane has read what it needed of the stage when `x` is computed.
  __device__ __forceinline__ void free_stage(int stage, float x) {
    arch::sync_warp();
    arch::barrier_arrive_after(shared.stage_free[group()][stage], tile::lane_index() == 0, x);
  }

  __device__ __forceinline__ void multiply_qk(float (&s)[kKeys / 2]) {
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) s[i] = 0.0f;
    const int stage = tile::wait_stage(shared.stage_ready[group()], ring);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if constexpr (!kKeepsQ) load_q(step, q[0]);
      tile::multiply_qk_step<Config::kElement, Config::kKvTile, kKeys>(
          s, q[kKeepsQ ? step : 0], shared.stages[group()][stage], first_key(), step, k_place);
    }
    free_stage(stage, s[0]);
  }
  __device__ __forceinline__ void multiply_pv(float (&o)[kOutputs],
                                              const uint32_t (&p)[kKeys / 4]) {
    const int stage = tile::wait_stage(shared.stage_ready[group()], ring);
    tile::multiply_pv<Config::kElement, Config::kKvTile, kKeys, Config::kVHeadDim>(
        o, p, shared.stages[group()][stage], first_key(), v_place);
    free_stage(stage, o[0]);
  }

  __device__ __forceinline__ void compute(float (&o)[kOutputs], tile::SoftmaxRows& rows) {
    arch::barrier_wait(shared.q_ready, 0);
    if constexpr (kKeepsQ) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) load_q(step, q[step]);
    }
#pragma unroll 1
    for (int tile = group(); tile < at.tiles; tile += Config::kGroups) {
      float s[kKeys / 2];
      multiply_qk(s);
      float correction[tile::kRowsPerThread];
      const bool grown = packed.template weigh<kKeys>(
          s, (at.first_tile + tile) * Config::kKvTile + first_key(), rows, correction);
      if (grown) tile::rescale(o, correction);
      uint32_t p[kKeys / 4];
      tile::pack_weights<Config::kElement>(s, p);
      multiply_pv(o, p);
    }
  }

  // This CTA's part, laid out for the cluster.
  __device__ __forceinline__ void run() {
    float o[kOutputs];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) o[i] = 0.0f;
    tile::SoftmaxRows rows;
    rows.reset();
    if (at.tiles > 0) compute(o, rows);
    tile::finish_sums(rows);
    arch::named_barrier_sync(kConsumersBarrier, Config::kConsumerThreads);  // the ring is read
    const int used = used_rows(packed.params, at);
    offer<Config>(shared.warp_statistics[warp], partial<Config>(shared, warp), o, rows,
                  tile::lane_index() / 4, used);
    arch::named_barrier_sync(kConsumersBarrier, Config::kConsumerThreads);
    add_warps<Config>(shared, used);
  }
};

}  // namespace bsk::sm90::attention_forward_split
