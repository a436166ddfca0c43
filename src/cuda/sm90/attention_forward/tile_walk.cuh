// What a task of the throughput kernel computes: its queries, and the tiles of keys one after the
// other.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/tile/block_list.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/mask.cuh"
#include "src/cuda/tile/ring.cuh"
#include "src/cuda/tile/scheduler.cuh"
#include "src/cuda/tile/visible_range.cuh"

namespace bsk::sm90::attention_forward {

// Whether this CTA has one task, while others are persistent.
template <class Config>
__device__ __forceinline__ bool is_dealt(const tile::Schedule& schedule) {
  return Config::kMixesDealing && arch::block_index() >= schedule.persistent;
}

// Calls task(number, round) for the tasks of this CTA whose rounds have a bit in `rounds`.
template <class Config, class Task>
__device__ __forceinline__ void for_each_task(const Params& params, uint32_t rounds, Task task) {
  const tile::Schedule& schedule = params.schedule;
  if constexpr (Config::kSharesRows) {
    int round = 0;
    for (int row_tile = tile::first_row_tile(schedule); row_tile < schedule.tasks; ++round) {
      if (rounds >> round % 32 & 1) task(row_tile, round);
      row_tile = tile::next_row_tile(schedule, row_tile, Config::kConsumers);
    }
    return;
  }
  const int persistent = schedule.persistent;
  const bool dealt = is_dealt<Config>(schedule);
  const int place = arch::block_index() - (dealt ? persistent : 0);
  const int end = schedule.rounds + (dealt ? 1 : 0);
  // Where nothing is dealt out besides, the last task is end enough, and one value less to hold.
  for (int round = dealt ? schedule.rounds : 0; !Config::kMixesDealing || round < end; ++round) {
    const int number = tile::task_index(round, place, persistent);
    if (number >= schedule.tasks) return;
    if (rounds >> round % 32 & 1) task(number, round);
  }
}
// The first of them, if there are so many tasks.
template <class Config>
__device__ __forceinline__ int first_task(const tile::Schedule& schedule) {
  if constexpr (Config::kSharesRows) return tile::first_row_tile(schedule);
  return arch::block_index() +
         (is_dealt<Config>(schedule) ? (schedule.rounds - 1) * schedule.persistent : 0);
}
constexpr uint32_t kEveryRound = 0xffffffffu;

constexpr int kNoTask = -1;  // follows the last planned one

// One who goes through the CTA's tasks: a whole warp, or a single thread.
template <class Config, bool kIsWarp>
struct TaskReader {
  typename Config::SharedMemory& shared;
  const Params& params;
  tile::RingPosition<kPlannedTasks> plan = {};

  __device__ __forceinline__ int next_planned() {
    arch::barrier_wait(shared.plan_ready[plan.stage], plan.parity);
    const int number = shared.plan[plan.stage];
    if constexpr (kIsWarp) arch::sync_warp();  // every lane has read it
    if (!kIsWarp || tile::lane_index() == 0) arch::barrier_arrive(shared.plan_free[plan.stage]);
    plan.advance();
    return number;
  }

  // Calls task(number, round) for the tasks whose rounds have a bit in `rounds`.
  template <class Task>
  __device__ __forceinline__ void for_each(uint32_t rounds, Task task) {
    if constexpr (Config::kPlansTasks) {
      int number;
      for (int round = 0; (number = next_planned()) != kNoTask; ++round) {
        if (rounds >> round % 32 & 1) task(number, round);
      }
    } else {
      for_each_task<Config>(params, rounds, task);
    }
  }
};

// Calls task(number) for all tasks of this CTA, and where the configuration is bold for those again
// that the consumers have marked when all are done (Consumer::run): of the roles that feed them.
template <class Config, bool kIsWarp, class Task>
__device__ __forceinline__ void for_each_task_fed(typename Config::SharedMemory& shared,
                                                  const Params& params, Task task) {
  uint32_t rounds = kEveryRound;
  TaskReader<Config, kIsWarp> tasks{shared, params};
  for (bool bold = Config::kBold; rounds != 0; bold = false) {
    tasks.for_each(rounds, [&](int number, int) { task(number); });
    if (!bold) return;
    arch::barrier_wait(shared.all_tasks_done, 0);
    rounds = shared.rounds_again;
  }
}

struct Coordinates {
  int batch, q_head, kv_head, first_row, last_row;  // rows of the tile that exist
  // Where row tiles are shared out: who has the first of them, and how many they are.
  int first_consumer, row_tiles;
};

// The place of a consumer's 64 rows among those of the task.
template <class Config>
__device__ __forceinline__ int place_of(const Coordinates& at, int consumer) {
  if constexpr (!Config::kSharesRows) return consumer;
  const int place = consumer - at.first_consumer;
  return place < 0 ? place + Config::kConsumers : place;
}
template <class Config>
__device__ __forceinline__ bool has_rows(const Coordinates& at, int consumer) {
  return !Config::kSharesRows || place_of<Config>(at, consumer) < at.row_tiles;
}
template <class Config>
__device__ __forceinline__ int first_row_of(const Coordinates& at, int consumer) {
  return at.first_row + 64 * place_of<Config>(at, consumer);
}

template <class Config>
__device__ __forceinline__ Coordinates coordinates_of(const Params& params, int task_number) {
  if constexpr (Config::kSharesRows) {
    const tile::Schedule& schedule = params.schedule;
    const int head_of_all = schedule.group_tasks.divide(task_number);
    const int batch = params.q_heads.divide(head_of_all);
    const int q_head = head_of_all - batch * static_cast<int>(params.q_heads.value);
    const int first_row = (task_number - head_of_all * schedule.q_tiles) * 64;
    const int row_tiles = tile::row_tiles_of_task(schedule, task_number, Config::kConsumers);
    const int end_row = first_row + 64 * row_tiles;
    return {batch,
            q_head,
            params.q_heads_per_kv_head.divide(q_head),
            first_row,
            (end_row < params.q_len ? end_row : params.q_len) - 1,
            task_number % Config::kConsumers,
            row_tiles};
  }
  const tile::Task task = Config::kPlansTasks ? tile::task_in_order(params.schedule, task_number)
                                              : tile::task_of(params.schedule, task_number);
  const int batch = params.q_heads.divide(task.head);
  const int q_head = task.head - batch * static_cast<int>(params.q_heads.value);
  const int first_row = task.q_tile * Config::kQTile;
  const int end_row = first_row + Config::kQTile;
  return {batch,
          q_head,
          params.q_heads_per_kv_head.divide(q_head),
          first_row,
          (end_row < params.q_len ? end_row : params.q_len) - 1,
          0,
          Config::kConsumers};
}

// Which consumers must mask a tile, and whose rows all see some key of it.
template <class Config, int kUnroll = Config::kBlocks>
__device__ __forceinline__ uint32_t tile_flags(const tile::TileRecord<Config::kBlocks>& record,
                                               const tile::Visibility& visibility,
                                               const Coordinates& at) {
  uint32_t flags = 0;
#pragma unroll
  for (int w = 0; w < Config::kConsumers; ++w) {
    const int row = first_row_of<Config>(at, w);
    const tile::KeyRange every = tile::keys_of_every_row(visibility, row, row + 63);
    if (!tile::fully_visible<Config::kBlockKeys, kUnroll>(record, every)) flags |= 1u << w;
    if (Config::kBold && tile::seen_by_every_row<Config::kBlockKeys, kUnroll>(record, every)) {
      flags |= tile::TileRecord<Config::kBlocks>::kEveryRowSees << w;
    }
  }
  return flags;
}

template <class Config>
class TileWalk {
 public:
  static_assert(!Config::kSharesRows);
  using Record = tile::TileRecord<Config::kBlocks>;

  __device__ __forceinline__ TileWalk(const Params& params, const Coordinates& at)
      : params_(params),
        first_row_(at.first_row),
        blocks_(params.lists, params.visibility,
                tile::keys_of_any_row(params.visibility, at.first_row, at.last_row), at.batch,
                at.q_head, at.first_row / Config::kQTile) {}

  // Gathers the next tile's blocks, of those that `keeps` wants, and says which consumers must mask
  // it; false when none is left.
  template <int kUnroll = Config::kBlocks, class Keeps>
  __device__ __forceinline__ bool next(Record& record, Keeps keeps) {
    bool found = false;
#pragma unroll kUnroll
    for (int b = 0; b < Config::kBlocks; ++b) {
      bool more = blocks_.next(record.blocks[b]);
      while (more && !keeps(b, record.blocks[b])) more = blocks_.next(record.blocks[b]);
      if (b == 0) found = more;
    }
    Coordinates at;
    at.first_row = first_row_;  // all that tells where rows are that are not shared out
    record.flags = tile_flags<Config, kUnroll>(record, params_.visibility, at);
    return found;
  }
  __device__ __forceinline__ bool next(Record& record) {
    return next<Record::kUnroll>(record, [](int, const tile::KeyBlock&) { return true; });
  }

 private:
  const Params& params_;
  const int first_row_;
  tile::KeyBlockWalk<Config::kBlockKeys> blocks_;
};

}  // namespace bsk::sm90::attention_forward
