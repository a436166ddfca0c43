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

// The same of tasks that are numbered head by head.
__device__ __forceinline__ Task task_in_order(const Schedule& schedule, int index) {
  const int head = schedule.group_tasks.divide(index);
  return {index - head * schedule.q_tiles, head};
}

// Where tiles of 64 rows are shared out evenly a CTA has consecutive ones; under a causal mask it
// has half of them from the front of the numbering and half from the back, where the same place of
// another head sees as many more keys as the first sees fewer. A task is as many row tiles of one
// head as there are consumers, or what is left.
__device__ __forceinline__ int first_row_tile(const Schedule& schedule) {
  return arch::block_index() * schedule.row_tiles_front;
}
// Of the row tiles that all CTAs have from the front.
__device__ __forceinline__ int end_of_front(const Schedule& schedule) {
  const int end = schedule.persistent * schedule.row_tiles_front;
  return end < schedule.tasks ? end : schedule.tasks;
}
__device__ __forceinline__ int row_tiles_of_task(const Schedule& schedule, int first,
                                                 int consumers) {
  const int end_of_front = tile::end_of_front(schedule);
  const int end_of_mine = first < end_of_front
                              ? first_row_tile(schedule) + schedule.row_tiles_front
                              : schedule.tasks - arch::block_index() * schedule.row_tiles_back;
  const int end_of_piece =
      first < end_of_front && end_of_front < end_of_mine ? end_of_front : end_of_mine;
  const int end_of_head = (schedule.group_tasks.divide(first) + 1) * schedule.q_tiles;
  const int end = end_of_head < end_of_piece ? end_of_head : end_of_piece;
  return end - first < consumers ? end - first : consumers;
}
// The first row tile of the task after; schedule.tasks where there is none.
__device__ __forceinline__ int next_row_tile(const Schedule& schedule, int first, int consumers) {
  const int end_of_front = tile::end_of_front(schedule);
  const int next = first + row_tiles_of_task(schedule, first, consumers);
  const int end_of_back = schedule.tasks - arch::block_index() * schedule.row_tiles_back;
  if (first >= end_of_front) return next < end_of_back ? next : schedule.tasks;
  const int end = first_row_tile(schedule) + schedule.row_tiles_front;
  if (next < (end < end_of_front ? end : end_of_front)) return next;
  const int begin = end_of_back - schedule.row_tiles_back;
  const int back = begin > end_of_front ? begin : end_of_front;
  return back < end_of_back ? back : schedule.tasks;
}

// Of the CTA at `place` of `ctas` in round `round`.
__device__ __forceinline__ int task_index(int round, int place, int ctas) {
  return round * ctas + (round % 2 == 0 ? place : ctas - 1 - place);
}

}  // namespace bsk::tile
