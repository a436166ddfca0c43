// Attention forward for long sequences on Hopper: one warpgroup copies, one to three multiply.
// DESIGN.md beside this has the picture.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/consumer.cuh"
#include "src/cuda/sm90/attention_forward/key_mask_reader.cuh"
#include "src/cuda/sm90/attention_forward/mask_producer.cuh"
#include "src/cuda/sm90/attention_forward/producer.cuh"
#include "src/cuda/sm90/attention_forward/task_plan.cuh"
#include "src/cuda/sm90/attention_forward/unaligned_mask_producer.cuh"
#include "src/cuda/tile/fragment.cuh"

namespace bsk::sm90::attention_forward {

template <class Config>
__device__ __forceinline__ void attention_forward(const Params& params) {
  using SharedMemory = typename Config::SharedMemory;
  SharedMemory& shared = *static_cast<SharedMemory*>(arch::shared_memory());
  const int warpgroup = tile::warpgroup_index();
  constexpr bool kReassign = Config::kRegisters.producer < Config::kRegisters.consumer;

  const int warp = tile::warp_index();
  bool begun = false;
  if (warp == 0 && arch::elect_one()) {
    for (int place = 0; place < Config::kQPlaces; ++place) {
      for (int w = 0; w < Config::kQParts; ++w) arch::barrier_init(shared.q_ready[place][w], 1);
    }
    arch::barrier_init(shared.stage_ready[0], 1);
    arch::fence_barrier_init();
    arch::wait_for_previous_grid();
    begun = begin_first_task<Config>(shared, params);
    arch::prefetch_tensor_map(params.v);
    constexpr int kConsumerWarps = 4 * Config::kConsumers;
    shared.rounds_again = 0;
    for (int place = 0; place < Config::kQPlaces; ++place) {
      for (int w = 0; w < Config::kQParts; ++w) {
        arch::barrier_init(shared.q_free[place][w], kConsumerWarps / Config::kQParts);
      }
    }
    arch::barrier_init(shared.all_tasks_done, kConsumerWarps);
    for (int stage = 0; stage < Config::kStages; ++stage) {
      if (stage > 0) arch::barrier_init(shared.stage_ready[stage], 1);
      arch::barrier_init(shared.stage_free[stage], kConsumerWarps);
    }
    if constexpr (Config::kMaskTiles && !Config::kMaskUnaligned) {
      arch::prefetch_tensor_map(params.mask_map);
    }
    for (int stage = 0; stage < Config::kMaskStages; ++stage) {
      for (int w = 0; w < Config::kMaskParts; ++w) {
        arch::barrier_init(shared.mask_ready[stage][w],
                           Config::kMaskUnaligned ? UnalignedMaskProducer<Config>::kThreads : 1);
        arch::barrier_init(shared.mask_free[stage][w],
                           Config::kMaskTiles ? 4 : 1 + kConsumerWarps);  // 1: who copies K
      }
    }
    if constexpr (Config::kPlansTasks) {
      for (int task = 0; task < kPlannedTasks; ++task) {
        arch::barrier_init(shared.plan_ready[task], 1);
        arch::barrier_init(shared.plan_free[task], 1 + kConsumerWarps);  // 1: who copies
      }
    }
    arch::fence_barrier_init();
  }
  arch::sync_block();
  arch::wait_for_previous_grid();

  if (warpgroup == 0) {
    if constexpr (kReassign) arch::decrease_registers<Config::kRegisters.producer>();
    if (warp == 0) {
      // By a vote, so that the compiler sees that the lanes agree.
      const bool first_begun = arch::warp_any(begun);
      if (arch::elect_one()) Producer<Config>{shared, params, first_begun}.run();
    } else if constexpr (Config::kMaskTiles) {
      if constexpr (Config::kMaskUnaligned) {
        UnalignedMaskProducer<Config>{shared, params, {}}.run();
      } else {
        MaskProducer<Config>{shared, params, {}}.run();
      }
    } else if constexpr (Config::kMasksKeys) {
      if (warp == 1) KeyMaskReader<Config>{shared, params, {}}.run();
    } else if constexpr (Config::kPlansTasks) {
      if (warp == 1) TaskPlanner<Config>{shared, params}.run();
    }
  } else {
    if constexpr (kReassign) arch::increase_registers<Config::kRegisters.consumer>();
    Consumer<Config>{shared, params, warpgroup - 1, {}, {}, {}}.run();
  }
}

}  // namespace bsk::sm90::attention_forward
