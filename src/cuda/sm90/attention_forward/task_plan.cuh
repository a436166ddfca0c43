// Which CTA computes which query tile of a block mask, decided on the device, where the lengths of
// the lists are.
//
// One warp of each CTA goes through the tasks in their order while the others compute, and gives
// each to a CTA that has been given least, as if CTAs took the next task from a counter whenever
// they are done with one. All CTAs come to the same plan, from the same lengths, and each notes
// down its own tasks. So nothing is shared between CTAs, nor between launches that run at once, and
// a mask that is changed between replays of a graph is planned anew. Where all lists are equally
// long every CTA gets every n-th task.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "src/cuda/tile/block_list.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/ring.cuh"

namespace bsk::sm90::attention_forward {

template <class Config>
struct TaskPlanner {
  static constexpr int kLanes = arch::kWarpThreads;
  static constexpr int kPerLane = 3, kAtOnce = kPerLane * kLanes;
  static constexpr int kSeam = 2;  // what a task costs besides its tiles of keys, in tiles

  typename Config::SharedMemory& shared;
  const Params& params;
  tile::RingPosition<kPlannedTasks> ring = tile::first_free<kPlannedTasks>();

  static __device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }

  __device__ __forceinline__ int ctas() const { return params.schedule.persistent; }
  __device__ __forceinline__ int last_task() const { return params.schedule.tasks - 1; }

  __device__ __forceinline__ uint16_t& cost_of(int task) {
    return shared.plan_costs[task % kPlannedCosts];
  }

  // Notes down what tasks [first, first + kAtOnce) cost, in tiles of keys.
  __device__ __forceinline__ void find_costs(int first) {
    const tile::BlockLists& lists = params.lists;
    int row[kPerLane], blocks[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int task = first + kLanes * i + tile::lane_index();
      const Coordinates at = coordinates_of<Config>(params, smaller(task, last_task()));
      row[i] = static_cast<int>(
          tile::row_of_list(lists, at.batch, at.q_head, at.first_row / Config::kQTile));
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) blocks[i] = tile::full_blocks(lists, row[i]);
    if (lists.partial_counts != nullptr) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) blocks[i] += tile::partial_blocks(lists, row[i]);
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int tiles = (blocks[i] * lists.block_k + Config::kKvTile - 1) / Config::kKvTile;
      cost_of(first + kLanes * i + tile::lane_index()) =
          static_cast<uint16_t>(smaller(tiles + kSeam, 0xffff));
    }
    arch::sync_warp();
  }

  // The CTA's next task.
  __device__ __forceinline__ void hand_over(int task) {
    arch::barrier_wait(shared.plan_free[ring.stage], ring.parity);
    arch::sync_warp();  // all lanes have seen it, before it becomes free once more
    if (tile::lane_index() == 0) {
      shared.plan[ring.stage] = task;
      arch::barrier_arrive(shared.plan_ready[ring.stage]);
    }
    ring.advance();
  }

  // Calls visit(CTA, task) for the CTAs that have been given up to `most`, and the tasks from
  // `next` on, as far as there are any. Returns how many CTAs they are.
  template <class Visit>
  __device__ __forceinline__ int for_each_taker(int most, int next, Visit visit) const {
    const int begin = next, lane = tile::lane_index();
#pragma unroll 1
    for (int first = 0; first < ctas(); first += kLanes) {
      const int cta = first + lane;
      const bool takes = cta < ctas() && shared.plan_loads[cta] <= most;
      const uint32_t takers = arch::ballot(takes);
      const int task = next + arch::population_count(takers & ((1u << lane) - 1));
      if (takes && task < params.schedule.tasks) visit(cta, task);
      next += arch::population_count(takers);
    }
    return next - begin;
  }

  __device__ __forceinline__ void plan() {
    const int tasks = params.schedule.tasks;
#pragma unroll 1
    for (int cta = tile::lane_index(); cta < ctas(); cta += kLanes) shared.plan_loads[cta] = 0;
    int margin = 0, costs = 0;  // of how many tasks they are known
#pragma unroll 1
    for (int next = 0; next < tasks;) {
      int least = 1 << 30;
#pragma unroll 1
      for (int cta = tile::lane_index(); cta < ctas(); cta += kLanes) {
        least = smaller(least, shared.plan_loads[cta]);
      }
      // A task for each CTA that has hardly more than another.
      const int most = static_cast<int>(arch::warp_minimum(least)) + margin;
      int mine = tasks, given = 0;
      for_each_taker(most, next, [&](int cta, int task) {
        if (cta == arch::block_index()) mine = task;
      });
      mine = static_cast<int>(arch::warp_minimum(mine));
      if (mine < tasks) hand_over(mine);
#pragma unroll 1
      for (; costs < smaller(tasks, next + ctas()); costs += kAtOnce) find_costs(costs);
      const int takers = for_each_taker(most, next, [&](int cta, int task) {
        const int cost = cost_of(task);
        shared.plan_loads[cta] += cost;
        given += cost;
      });
      next += takers;
      margin = static_cast<int>(arch::warp_sum(given)) / (2 * takers);
    }
    hand_over(kNoTask);
  }

  static_assert(kPlannedCosts >= kPlannedCtas + kAtOnce);

  __device__ __forceinline__ void run() {
    plan();
    if (!Config::kBold) return;
    arch::barrier_wait(shared.all_tasks_done, 0);
    if (shared.rounds_again != 0) plan();
  }
};

}  // namespace bsk::sm90::attention_forward
