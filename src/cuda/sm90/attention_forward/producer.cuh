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
constexpr bool kMayBeConsecutive =
    !Config::kMasksKeys && !Config::kPlansTasks && Config::kBlocks == 1;

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

// The rows of Q of `part` of the consumers (all, or one that goes at its own pace), all columns.
template <class Config>
__device__ __forceinline__ void load_q(typename Config::SharedMemory& shared, const Params& params,
                                       const Coordinates& at, int place, int part) {
  constexpr int kRows = Config::kQTile / Config::kQParts;
  arch::Barrier& ready = shared.q_ready[place][part];
  arch::barrier_arrive_and_expect(ready, kRows * Config::kQKColumns * 2);
  for (int column = 0; column < Config::kQKColumns; column += arch::kSwizzleElements) {
    arch::load_tile(
        params.q, ready,
        shared.q[place] + column * Config::kQTile + part * kRows * arch::kSwizzleElements, column,
        first_row_of<Config>(at, part), at.q_head * params.q_head_step,
        at.batch * params.q_batch_step, arch::CacheHint::kEvictFirst);
  }
}
// The same, if the task has tiles of keys and they have rows; else word that there is nothing.
template <class Config>
__device__ __forceinline__ void give_q(typename Config::SharedMemory& shared, const Params& params,
                                       const Coordinates& at, int place, int part, bool any) {
  shared.task_has_tiles[place][part] = any;
  if (any && has_rows<Config>(at, part)) {
    load_q<Config>(shared, params, at, place, part);
  } else {
    arch::barrier_arrive(shared.q_ready[place][part]);
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
  record.flags = tile_flags<Config>(record, params.visibility, at);
  if (key + Config::kKvTile < end) record.flags |= tile::TileRecord<1>::kHasNext;
  return record;
}

// The tiles of consecutive keys that a task sees, in chains: those whose number is 0 modulo
// `chains` (a power of two) come first, then those of 1, and so on.
template <class Config>
struct ChainWalk {
  int begin, end, chains;  // in tiles
  int chain = -1, tile = 1 << 29;

  __device__ __forceinline__ ChainWalk(const Params& params, const Coordinates& at)
      : chains(params.chains) {
    const tile::KeyRange tiles = tiles_of_rows(params, at.first_row, at.last_row);
    begin = tiles.begin;
    end = tiles.end;
  }
  // The tiles of which some row sees something.
  static __device__ __forceinline__ tile::KeyRange tiles_of_rows(const Params& params,
                                                                 int first_row, int last_row) {
    const tile::KeyRange keys = tile::keys_of_any_row(params.visibility, first_row, last_row);
    return {keys.begin / Config::kKvTile, (keys.end + Config::kKvTile - 1) / Config::kKvTile};
  }
  // To the next tile, or the first one.
  __device__ __forceinline__ bool advance() {
    tile += chains;
    while (tile >= end && chain + 1 < chains) {
      ++chain;
      tile = begin + ((chain - begin) & (chains - 1));
    }
    return tile < end;
  }
  __device__ __forceinline__ int key() const { return tile * Config::kKvTile; }
  // A bit for each tile that comes later, where there are two chains.
  __device__ __forceinline__ uint32_t tiles_left() const {
    const uint32_t of_this = 0x55555555u << tile << chains, of_next = chain == 0 ? 0xaaaaaaaau : 0;
    return (of_this | of_next) & ((1u << end) - (1u << begin));
  }
  // A bit for each tile that a consumer's rows see something of; all where they see nothing.
  static __device__ __forceinline__ uint32_t tiles_seen(const Params& params, const Coordinates& at,
                                                        int consumer) {
    const int row = first_row_of<Config>(at, consumer);
    const tile::KeyRange tiles =
        tiles_of_rows(params, row, row + 63 < at.last_row ? row + 63 : at.last_row);
    return tiles.begin < tiles.end ? (1u << tiles.end) - (1u << tiles.begin) : ~0u;
  }
  __device__ __forceinline__ tile::TileRecord<1> record(const Params& params,
                                                        const Coordinates& at) const {
    using Record = tile::TileRecord<1>;
    Record record = {{{key(), nullptr}}, 0};
    record.flags = tile_flags<Config>(record, params.visibility, at);
    if (tile - chains < begin) record.flags |= Record::kChainBegins;
    const uint32_t later = tiles_left();
    if (later != 0) record.flags |= Record::kHasNext;
    if constexpr (Config::kSkipsUnseen) {
#pragma unroll
      for (int w = 0; w < Config::kConsumers; ++w) {
        const uint32_t seen = tiles_seen(params, at, w);
        if (seen >> tile & 1) record.flags |= Record::kSees << w;
        if (seen & later) record.flags |= Record::kSeesLater << w;
      }
    }
    return record;
  }
};

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
    const auto begin = [&](int key, auto record) {
      for (int part = 0; part < Config::kQParts; ++part) {
        give_q<Config>(shared, params, at, 0, part, true);
      }
      copy_blocks<Config>(shared, 0, params.k, {{{key, nullptr}}, 0}, Config::kQKColumns,
                          at.kv_head * params.k_head_step, at.batch * params.k_batch_step);
      // K's bytes may arrive before they are expected; the phase ends after this arrival.
      shared.records[0] = record();
      arch::barrier_arrive_and_expect(shared.stage_ready[0], Config::kKBytes);
    };
    if constexpr (Config::kChained) {
      ChainWalk<Config> walk(params, at);
      if (!walk.advance()) return false;
      begin(walk.key(), [&] { return walk.record(params, at); });
    } else {
      const auto [key, end] = consecutive_keys<Config>(params, at);
      if (key >= end) return false;
      const int first = key, last = end;
      begin(first, [&] { return tile_from<Config>(params, at, first, last); });
    }
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
  tile::RingPosition<Config::kStages> ring = {};
  tile::RingPosition<Config::kMaskStages> mask_ring = {};
  tile::RingPosition<Config::kQPlaces> q_at = tile::first_free<Config::kQPlaces>();

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
    if (walk.next(next)) last.flags |= Record::kHasNext;
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

  // Q, when the task before in its place has read its own.
  __device__ __forceinline__ void hand_over_q(const Coordinates& at, bool any) {
    for (int part = 0; part < Config::kQParts; ++part) {
      arch::barrier_wait(shared.q_free[q_at.stage][part], q_at.parity);
      give_q<Config>(shared, params, at, q_at.stage, part, any);
    }
    q_at.advance();
  }

  // The first tile of K, and Q, unless that has begun; false where there is none.
  template <class MakeRecord>
  __device__ __forceinline__ bool load_first(const Coordinates& at, bool any, MakeRecord record) {
    if (begun) {
      begun = false;
      ring.advance();
      q_at.advance();
      return true;
    }
    // K before Q: it may already arrive while the task before still reads its Q.
    if (any) load_k(at, record());
    hand_over_q(at, any);
    return any;
  }

  __device__ __forceinline__ void load_chains(const Coordinates& at) {
    ChainWalk<Config> walk(params, at);
    const bool any = walk.advance();
    if (!load_first(at, any, [&] { return walk.record(params, at); })) return;
    int last = walk.key();
    while (walk.advance()) {
      load_k(at, walk.record(params, at));
      load_v(at, {{{last, nullptr}}, 0});
      last = walk.key();
    }
    load_v(at, {{{last, nullptr}}, 0});
  }

  __device__ __forceinline__ void load_consecutive(const Coordinates& at) {
    auto [key, end] = consecutive_keys<Config>(params, at);
    const auto first = [&, key = key, end = end] {
      return tile_from<Config>(params, at, key, end);
    };
    if (!load_first(at, key < end, first)) return;
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
    if constexpr (Config::kChained) {
      load_chains(at);
    } else if constexpr (Config::kSharesRows) {
      load_consecutive(at);
    } else {
      if constexpr (kMayBeConsecutive<Config>) {
        if (params.lists.full_counts == nullptr) return load_consecutive(at);
      }
      load_walked(at);
    }
  }

  __device__ __forceinline__ void run() {
    for_each_task_fed<Config, /*kIsWarp=*/false>(
        shared, params, [this](int task) { load(coordinates_of<Config>(params, task)); });
  }
};

}  // namespace bsk::sm90::attention_forward
