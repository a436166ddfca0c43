// The one thread that copies Q, K and V.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "src/cuda/tile/ring.cuh"

namespace bsk::sm90::attention_forward {

// Whether the keys of a task are consecutive where there are no lists.
template <class Config>
constexpr bool kMayBeConsecutive = !Config::kMasksKeys && !Config::kChained && Config::kBlocks == 1;

// A tile of K or V, to a stage of the ring.
template <class Config, class Record = tile::TileRecord<Config::kBlocks>>
__device__ __forceinline__ void copy_blocks(typename Config::SharedMemory& shared, int stage,
                                            const arch::TensorMap& map, const Record& record,
                                            int columns, int head, int batch) {
  for (int column = 0; column < columns; column += arch::kSwizzleElements) {
#pragma unroll Record::kUnroll
    for (int b = 0; b < Config::kBlocks; ++b) {
      uint16_t* const destination = shared.stages[stage] + column * Config::kKvTile +
                                    b * Config::kBlockKeys * arch::kSwizzleElements;
      arch::load_tile(map, shared.stage_ready[stage], destination, column,
                      record.blocks[b].first_key, head, batch, arch::CacheHint::kEvictLast);
    }
  }
}

// A tile of queries, all columns.
template <class Config>
__device__ __forceinline__ void load_q(typename Config::SharedMemory& shared, const Params& params,
                                       const Coordinates& at) {
  arch::barrier_arrive_and_expect(shared.q_ready, Config::kQBytes);
  for (int column = 0; column < Config::kQKColumns; column += arch::kSwizzleElements) {
    arch::load_tile(params.q, shared.q_ready, shared.q + column * Config::kQTile, column,
                    at.first_row, at.q_head * params.q_head_step, at.batch * params.q_batch_step,
                    arch::CacheHint::kEvictFirst);
  }
}

// The keys that a task sees, from the beginning of a tile on.
template <class Config>
__device__ __forceinline__ tile::KeyRange consecutive_keys(const Params& params,
                                                           const Coordinates& at) {
  const tile::KeyRange range = tile::keys_of_any_row(params.visibility, at.first_row, at.last_row);
  return {range.begin / Config::kKvTile * Config::kKvTile, range.end};
}

// The tile of consecutive keys from `key` on, of a task that sees those before `end`.
template <class Config>
__device__ __forceinline__ tile::TileRecord<1> tile_from(const Params& params,
                                                         const Coordinates& at, int key, int end) {
  tile::TileRecord<1> record = {{{key, nullptr}}, 0};
  record.flags = tile_flags<Config>(record, params.visibility, at.first_row);
  if (key + Config::kKvTile < end) record.flags |= tile::TileRecord<1>::kHasNext;
  return record;
}

// Starts on the CTA's first task before the roles are dealt out, whose code is still to be fetched:
// Q, and the first K into stage 0 of the ring. False, and nothing done, where that is left to the
// producer.
template <class Config>
__device__ __forceinline__ bool begin_first_task(typename Config::SharedMemory& shared,
                                                 const Params& params) {
  if constexpr (!kMayBeConsecutive<Config>) {
    return false;
  } else {
    const int task = first_task<Config>(params.schedule);
    if (params.lists.full_counts != nullptr || task >= params.schedule.tasks) return false;
    const Coordinates at = coordinates_of<Config>(params, task);
    const auto [key, end] = consecutive_keys<Config>(params, at);
    if (key >= end) return false;
    shared.task_has_tiles = true;
    load_q<Config>(shared, params, at);
    copy_blocks<Config>(shared, 0, params.k, {{{key, nullptr}}, 0}, Config::kQKColumns,
                        at.kv_head * params.k_head_step, at.batch * params.k_batch_step);
    // K's bytes may arrive before they are expected; the phase ends after this arrival.
    shared.records[0] = tile_from<Config>(params, at, key, end);
    arch::barrier_arrive_and_expect(shared.stage_ready[0], Config::kKBytes);
    return true;
  }
}

template <class Config>
struct Producer {
  using SharedMemory = typename Config::SharedMemory;
  using Record = tile::TileRecord<Config::kBlocks>;

  SharedMemory& shared;
  const Params& params;
  bool begun;  // what begin_first_task says
  tile::RingPosition<Config::kStages> ring;
  tile::RingPosition<Config::kMaskStages> mask_ring;
  uint32_t q_parity = 1;  // the first wait finds Q's place free

  // Takes the next tile that the reader of a mask of keys has found.
  __device__ __forceinline__ void take(Record& record) {
    const int stage = mask_ring.stage;
    arch::barrier_wait(shared.mask_ready[stage][0], mask_ring.parity);
    record = shared.found[stage];
    arch::barrier_arrive(shared.mask_free[stage][0]);
    mask_ring.advance();
  }

  // A task's first tile; false where there is none.
  __device__ __forceinline__ bool begin(TileWalk<Config>& walk, Record& first) {
    if constexpr (Config::kMasksKeys) {
      take(first);
      return !(first.flags & Record::kNoTile);
    }
    return walk.next(first);
  }

  // The tile after `last`, which is told whether there is one.
  __device__ __forceinline__ void follow(TileWalk<Config>& walk, Record& last, Record& next) {
    if constexpr (Config::kMasksKeys) {
      if (last.flags & Record::kHasNext) {
        take(next);
      } else {
        next = last;  // not looked at
      }
      return;
    }
    const int chain = walk.chain();
    if (!walk.next(next)) return;
    last.flags |= Record::kHasNext;
    if (walk.chain() != chain) last.flags |= Record::kChainEnds;
  }

  __device__ __forceinline__ arch::Barrier& acquire_stage() {
    arch::barrier_wait(shared.stage_free[ring.stage], ring.parity ^ 1);
    return shared.stage_ready[ring.stage];
  }

  __device__ __forceinline__ void load_k(const Coordinates& at, const Record& record) {
    arch::Barrier& ready = acquire_stage();
    shared.records[ring.stage] = record;
    arch::barrier_arrive_and_expect(ready, Config::kKBytes);
    copy_blocks<Config>(shared, ring.stage, params.k, record, Config::kQKColumns,
                        at.kv_head * params.k_head_step, at.batch * params.k_batch_step);
    ring.advance();
  }

  __device__ __forceinline__ void load_v(const Coordinates& at, const Record& record) {
    arch::Barrier& ready = acquire_stage();
    arch::barrier_arrive_and_expect(ready, Config::kVBytes);
    copy_blocks<Config>(shared, ring.stage, params.v, record, Config::kVColumns,
                        at.kv_head * params.v_head_step, at.batch * params.v_batch_step);
    ring.advance();
  }

  // Q, when the task before has read its own; none where the task has no tile of keys.
  __device__ __forceinline__ void hand_over_q(const Coordinates& at, bool any) {
    arch::barrier_wait(shared.q_free, q_parity);
    q_parity ^= 1;
    shared.task_has_tiles = any;
    if (any) {
      load_q<Config>(shared, params, at);
    } else {
      arch::barrier_arrive(shared.q_ready);
    }
  }

  __device__ __forceinline__ void load_consecutive(const Coordinates& at) {
    auto [key, end] = consecutive_keys<Config>(params, at);
    if (begun) {
      begun = false;
      ring.advance();
      q_parity ^= 1;
    } else {
      const bool any = key < end;
      // K before Q: it may already arrive while the task before still reads its Q.
      if (any) load_k(at, tile_from<Config>(params, at, key, end));
      hand_over_q(at, any);
      if (!any) return;
    }
    for (; key + Config::kKvTile < end; key += Config::kKvTile) {
      load_k(at, tile_from<Config>(params, at, key + Config::kKvTile, end));
      load_v(at, {{{key, nullptr}}, 0});
    }
    load_v(at, {{{key, nullptr}}, 0});
  }

  __device__ __forceinline__ void load_walked(const Coordinates& at) {
    TileWalk<Config> walk(params, at);
    Record in_registers[3];
    Record* const ahead = Record::kFitsInRegisters ? in_registers : shared.ahead;
    Record &current = ahead[0], &following = ahead[1], &after = ahead[2];
    const bool any = begin(walk, current);
    if (any) follow(walk, current, following);
    if (any) load_k(at, current);
    hand_over_q(at, any);
    if (!any) return;
    while (current.flags & Record::kHasNext) {
      follow(walk, following, after);
      load_k(at, following);
      load_v(at, current);
      current = following;
      following = after;
    }
    load_v(at, current);
  }

  __device__ __forceinline__ void load(const Coordinates& at) {
    if constexpr (kMayBeConsecutive<Config>) {
      if (params.lists.full_counts == nullptr) return load_consecutive(at);
    }
    load_walked(at);
  }

  __device__ __forceinline__ void run() {
    for_each_task_fed<Config>(shared, params,
                              [this](int task) { load(coordinates_of<Config>(params, task)); });
  }
};

}  // namespace bsk::sm90::attention_forward
