// Which tile of queries a CTA computes, and in which order.
//
// Tasks are numbered so that the CTAs that run together read the keys of few heads (they find each
// other's K and V in L2), and under a causal mask the longest tiles of each group of heads come
// first. A group with fewer heads than the others is the first one: the last one must have enough
// short tasks to fill in behind its long ones. A persistent CTA takes every n-th task, in
// alternating direction, which evens out lengths that change steadily along the numbering; tasks
// that are left have a CTA each, which the hardware deals out as multiprocessors become free, which
// evens out all others.
#pragma once

#include "src/cuda/tile/params.h"

namespace bsk::tile {

struct Task {
  int q_tile, head;  // head counts through the batch
};

__device__ __forceinline__ Task task_of(const Schedule& schedule, int index) {
  const bool first = index < schedule.tasks_of_first;
  const Divisor& heads = first ? schedule.heads_of_first : schedule.heads_per_group;
  int first_head = 0, within = index;
  if (!first) {
    const int later = index - schedule.tasks_of_first;
    const int group = schedule.group_tasks.divide(later);
    first_head = static_cast<int>(schedule.heads_of_first.value) +
                 group * static_cast<int>(schedule.heads_per_group.value);
    within = later - group * static_cast<int>(schedule.group_tasks.value);
  }
  const int q_tile = heads.divide(within);
  return {schedule.longest_first ? schedule.q_tiles - 1 - q_tile : q_tile,
          first_head + within - q_tile * static_cast<int>(heads.value)};
}

// Of the CTA at `place` of `ctas` in round `round`.
__device__ __forceinline__ int task_index(int round, int place, int ctas) {
  return round * ctas + (round % 2 == 0 ? place : ctas - 1 - place);
}

}  // namespace bsk::tile
