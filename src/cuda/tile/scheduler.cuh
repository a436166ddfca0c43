// Which tile of queries a CTA computes, and in which order.
//
// Tasks are numbered so that the CTAs that run together read the keys of few heads (they find each
// other's K and V in L2), and under a causal mask the longest tiles of each group of heads come
// first. A persistent CTA takes every grid-th task, in alternating direction, which evens out
// lengths that change steadily along the numbering.
#pragma once

#include "src/cuda/tile/params.h"

namespace bsk::tile {

struct Task {
  int q_tile, head;  // head counts through the batch
};

__device__ __forceinline__ Task task_of(const Schedule& schedule, int index) {
  const int group = schedule.group_tasks.divide(index);
  const int first_head = group * static_cast<int>(schedule.heads_per_group.value);
  const int within = index - group * static_cast<int>(schedule.group_tasks.value);
  const int heads_left = schedule.heads - first_head;
  const bool last = heads_left < static_cast<int>(schedule.heads_per_group.value);
  const Divisor& heads = last ? schedule.heads_of_last : schedule.heads_per_group;
  const int q_tile = heads.divide(within);
  return {schedule.longest_first ? schedule.q_tiles - 1 - q_tile : q_tile,
          first_head + within - q_tile * static_cast<int>(heads.value)};
}

// The task of this CTA in round `round`; >= tasks when there is none (and in no later round).
__device__ __forceinline__ int task_index(int round, int block, int grid) {
  return round * grid + (round % 2 == 0 ? block : grid - 1 - block);
}

}  // namespace bsk::tile
