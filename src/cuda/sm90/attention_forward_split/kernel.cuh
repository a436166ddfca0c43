// Attention forward for few queries against many keys on Hopper: the CTAs of a cluster share the
// keys and merge through distributed shared memory. DESIGN.md beside this has the picture.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/cluster.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/sm90/attention_forward_split/config.h"
#include "src/cuda/sm90/attention_forward_split/merge.cuh"
#include "src/cuda/sm90/attention_forward_split/producer.cuh"
#include "src/cuda/sm90/attention_forward_split/warp_consumer.cuh"
#include "src/cuda/sm90/attention_forward_split/warpgroup_consumer.cuh"
#include "src/cuda/tile/fragment.cuh"

namespace bsk::sm90::attention_forward_split {

// The CTA's shares, one after the other.
template <class Consumer, class SharedMemory>
__device__ __forceinline__ void consume(SharedMemory& shared, const Params& params,
                                        const Coordinates& at) {
  Consumer consumer(shared, params, at);
#pragma unroll 1
  for (int number = at.first_share; number < at.end_share; ++number) {
    float o[Consumer::kOutputs];
#pragma unroll
    for (int i = 0; i < Consumer::kOutputs; ++i) o[i] = 0.0f;
    tile::SoftmaxRows rows;
    rows.reset();
    const Share share = share_of(params, at, number);
    if (share.begin < share.end) consumer.compute(o, rows, share);
    tile::finish_sums(rows);
    consumer.lay_out(o, rows, number - at.first_share);
  }
}

template <class Config>
__device__ __forceinline__ void attention_forward_split(const Params& params) {
  using SharedMemory = typename Config::SharedMemory;
  SharedMemory& shared = *static_cast<SharedMemory*>(arch::shared_memory());
  const int rank = arch::cluster_rank();
  const Coordinates at = coordinates_of<Config>(params, rank);
  const bool consumes = tile::warp_index() < Config::kConsumerWarps;

  if constexpr (Config::kRows == kFewRows) {
    if (consumes) WarpConsumer<Config>::clear_unused_rows(shared, params);
  }
  if (arch::thread_index() == Config::kConsumerThreads) {  // the producer's
    arch::prefetch_tensor_map(params.q);
    arch::prefetch_tensor_map(params.k);
    arch::prefetch_tensor_map(params.v);
    arch::barrier_init(shared.q_ready, 1);
    for (int group = 0; group < Config::kGroups; ++group) {
      for (int stage = 0; stage < Config::kMostStages; ++stage) {
        arch::barrier_init(shared.stage_ready[group][stage], 1);
        arch::barrier_init(shared.stage_free[group][stage], Config::kWarpsPerTile);
      }
    }
    arch::fence_barrier_init();
  }
  arch::sync_block();
  arch::wait_for_previous_grid();

  if (consumes) {
    if constexpr (Config::kRows == kFewRows) {
      consume<WarpConsumer<Config>>(shared, params, at);
    } else {
      consume<WarpgroupConsumer<Config>>(shared, params, at);
    }
  } else if (tile::lane_index() == 0) {
    Producer<Config>{shared, params, at, {}}.run();
  }
  arch::let_next_grid_start();
  arch::sync_warp();     // the cluster's barrier takes whole warps
  arch::sync_cluster();  // every CTA's parts are there
  if (consumes) Merge<Config>{shared, params, at, rank}.run();
  arch::sync_warp();
  arch::meet_cluster();  // and have been read
}

}  // namespace bsk::sm90::attention_forward_split
