// Four warps that multiply together, for tiles of 64 packed rows.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/arch/wgmma.cuh"
#include "src/cuda/sm90/attention_forward_split/merge.cuh"
#include "src/cuda/sm90/attention_forward_split/scores.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/products.cuh"
#include "src/cuda/tile/ring.cuh"

namespace bsk::sm90::attention_forward_split {

template <class Config>
struct WarpgroupConsumer {
  using SharedMemory = typename Config::SharedMemory;
  static constexpr int kScores = Config::kKvTile / 2;  // registers
  static constexpr int kOutputs = Config::kVHeadDim / 2;
  static constexpr int kNoStage = -1;

  SharedMemory& shared;
  const Coordinates& at;
  const PackedRows<Config> packed;
  tile::RunTimeRingPosition ring;

  __device__ __forceinline__ WarpgroupConsumer(SharedMemory& shared, const Params& params,
                                               const Coordinates& at)
      : shared(shared), at(at), packed(params, at, tile::fragment_row()) {}

  __device__ __forceinline__ int wait_stage() {
    return tile::wait_stage(shared.stage_ready[0], ring, packed.params.stages);
  }
  __device__ __forceinline__ void free_stage(int stage) {
    if (tile::lane_index() == 0) arch::barrier_arrive(shared.stage_free[0][stage]);
  }

  __device__ __forceinline__ void issue_qk(float (&s)[kScores], int stage) {
    tile::issue_qk<Config::kElement, Config::kHeadDim, Config::kRows, Config::kKvTile>(
        s, shared.q, shared.stage(stage));
  }
  __device__ __forceinline__ void issue_pv(float (&o)[kOutputs], const uint32_t (&p)[kScores / 2],
                                           int stage) {
    tile::issue_pv<Config::kElement, Config::kVHeadDim, Config::kKvTile>(o, p, shared.stage(stage));
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

  // The tile of queries against a share of the keys: QK of the next tile is issued before PV of
  // this one, so that the softmax between them runs under a product.
  __device__ __forceinline__ void compute(float (&o)[kOutputs], tile::SoftmaxRows& rows,
                                          const Share& share) {
    float s[kScores];
    uint32_t p[kScores / 2];
    float correction[tile::kRowsPerThread];

    arch::barrier_wait(shared.q_ready, 0);
    int k_stage = wait_stage(), v_stage = kNoStage;
    issue_qk(s, k_stage);
    arch::mma_wait<0>();
    for (int tile = share.begin;; ++tile) {
      arch::mma_fence_registers(s);
      const int first_key = tile * Config::kKvTile;
      const bool grown = packed.template weigh<Config::kKvTile>(s, first_key, rows, correction);
      // K is released late, to keep the exponentials in front of the waits below: ptxas moves
      // arithmetic across barriers and branches, and only a data dependency holds it.
      free_stage(arch::order_after(k_stage, rows.sum[0] + rows.sum[1]));
      const bool more = tile + 1 < share.end;
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
    free_stage(v_stage);
  }

  // The part of one of the CTA's shares, laid out for the cluster.
  __device__ __forceinline__ void lay_out(const float (&o)[kOutputs], const tile::SoftmaxRows& rows,
                                          int part) {
    arch::named_barrier_sync(kConsumersBarrier, arch::kWarpgroupThreads);  // all have read the ring
    const Params& params = packed.params;
    offer<Config>(shared, params, params.share_parts, part, o, rows, tile::fragment_row(),
                  used_rows(params, at));
  }
};

}  // namespace bsk::sm90::attention_forward_split
