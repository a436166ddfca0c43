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

  SharedMemory& shared;
  const Coordinates& at;
  const int warp;
  const PackedRows<Config> packed;
  const tile::MatrixPlace<tile::kWarpRows, false> q_place;
  const tile::MatrixPlace<Config::kKvTile, true> k_place;
  const tile::MatrixPlace<Config::kKvTile, false> v_place;
  tile::RunTimeRingPosition ring;

  __device__ __forceinline__ WarpConsumer(SharedMemory& shared, const Params& params,
                                          const Coordinates& at)
      : shared(shared),
        at(at),
        warp(tile::warp_index()),
        packed(params, at, tile::lane_index() / 4) {}

  // Rows of Q that no copy will fill are zeros, so that no rubbish of theirs slows the softmax. By
  // all consumers, before the CTA's first barrier.
  static __device__ __forceinline__ void clear_unused_rows(SharedMemory& shared,
                                                           const Params& params) {
    const int row = arch::thread_index() / 8;  // a thread has 16 bytes of each 64 columns
    static_assert(Config::kConsumerThreads == 8 * Config::kRows);
    if (row < params.packing.heads * params.packing.queries) return;
#pragma unroll
    for (int column = 0; column < Config::kQKColumns; column += arch::kSwizzleElements) {
      arch::store_16_bytes(shared.q + column * Config::kRows + arch::thread_index() * 8, 0, 0, 0,
                           0);
    }
  }

  // The warps of one group share a tile's keys; the next tile is for the next ones.
  __device__ __forceinline__ int group() const { return warp / Config::kWarpsPerTile; }
  __device__ __forceinline__ int first_key() const {  // in the tile
    return warp % Config::kWarpsPerTile * kKeys;
  }

  // The number of the group's next stage, when it is there.
  __device__ __forceinline__ int wait_stage() {
    return tile::wait_stage(shared.stage_ready[group()], ring, packed.params.stages);
  }
  __device__ __forceinline__ const uint16_t* stage_at(int stage) {
    return shared.stage(group() * packed.params.stages + stage);
  }
  // Every lane has read what it needed of the stage when `x` is computed.
  __device__ __forceinline__ void free_stage(int stage, float x) {
    arch::sync_warp();
    arch::barrier_arrive_after(shared.stage_free[group()][stage], tile::lane_index() == 0, x);
  }

  __device__ __forceinline__ void multiply_qk(float (&s)[kKeys / 2]) {
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) s[i] = 0.0f;
    const int stage = wait_stage();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t q[4];
      tile::load_q_step(shared.q, step, q_place, q);
      tile::multiply_qk_step<Config::kElement, Config::kKvTile, kKeys>(s, q, stage_at(stage),
                                                                       first_key(), step, k_place);
    }
    free_stage(stage, s[0]);
  }
  __device__ __forceinline__ void multiply_pv(float (&o)[kOutputs],
                                              const uint32_t (&p)[kKeys / 4]) {
    const int stage = wait_stage();
    tile::multiply_pv<Config::kElement, Config::kKvTile, kKeys, Config::kVHeadDim>(
        o, p, stage_at(stage), first_key(), v_place);
    free_stage(stage, o[0]);
  }

  __device__ __forceinline__ void compute(float (&o)[kOutputs], tile::SoftmaxRows& rows,
                                          const Share& share) {
    arch::barrier_wait(shared.q_ready, 0);
#pragma unroll 1
    for (int tile = share.begin + group(); tile < share.end; tile += Config::kGroups) {
      float s[kKeys / 2];
      multiply_qk(s);
      float correction[tile::kRowsPerThread];
      const bool grown =
          packed.template weigh<kKeys>(s, tile * Config::kKvTile + first_key(), rows, correction);
      if (grown) tile::rescale(o, correction);
      uint32_t p[kKeys / 4];
      tile::pack_weights<Config::kElement>(s, p);
      multiply_pv(o, p);
    }
  }

  // The part of one of the CTA's shares, made of the warps', laid out for the cluster.
  __device__ __forceinline__ void lay_out(const float (&o)[kOutputs], const tile::SoftmaxRows& rows,
                                          int part) {
    const Params& params = packed.params;
    const bool together = params.parts_together;
    if (!together) meet();  // all have read the rings, or the parts of the share before
    offer<Config>(shared, params, params.warp_parts,
                  (together ? part * Config::kConsumerWarps : 0) + warp, o, rows,
                  tile::lane_index() / 4, used_rows(params, at));
    if (together && part + 1 < at.end_share - at.first_share) return;
    meet();
    add_warps<Config>(shared, params, together ? 0 : part, part + 1, used_rows(params, at));
  }

 private:
  __device__ __forceinline__ void meet() {
    arch::named_barrier_sync(kConsumersBarrier, Config::kConsumerThreads);
  }
};

}  // namespace bsk::sm90::attention_forward_split
