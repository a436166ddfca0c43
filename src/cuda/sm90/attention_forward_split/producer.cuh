// What a CTA has to do, and the one thread that copies Q, K and V.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/sm90/attention_forward_split/config.h"
#include "src/cuda/tile/ring.cuh"
#include "src/cuda/tile/visible_range.cuh"

namespace bsk::sm90::attention_forward_split {

struct Coordinates {
  int batch, kv_head;
  int first_head;              // in the group
  int first_query, end_query;  // that exist
  int first_tile, tiles;       // of keys that some query sees
  int first_share, end_share;  // of the keys, of this CTA
};

template <class Config>
__device__ __forceinline__ Coordinates coordinates_of(const Params& params, int rank) {
  const Packing& packing = params.packing;
  const int cluster = arch::block_index() >> params.ctas_log2;
  const int batch = params.by_tiles.divide(cluster);
  const int tile = cluster - batch * static_cast<int>(params.by_tiles.value);
  const int q_tile = params.by_head_tiles.divide(tile);
  const int first_query = q_tile * packing.queries;
  const int end = first_query + packing.queries;
  const int end_query = end < params.q_len ? end : params.q_len;
  const tile::KeyRange range = tile::keys_of_any_row(params.visibility, first_query, end_query - 1);
  const int first_tile = range.begin / Config::kKvTile;
  const int end_tile = (range.end + Config::kKvTile - 1) / Config::kKvTile;
  const int shares_log2 = params.splits_log2 - params.ctas_log2;  // of a CTA
  return {batch,
          arch::block_index_y(),
          (tile - q_tile * packing.head_tiles) * packing.heads,
          first_query,
          end_query,
          first_tile,
          end_tile > first_tile ? end_tile - first_tile : 0,
          rank << shares_log2,
          (rank + 1) << shares_log2};
}

// Tiles of keys.
struct Share {
  int begin, end;
};
__device__ __forceinline__ Share share_of(const Params& params, const Coordinates& at, int share) {
  return {at.first_tile + (share * at.tiles >> params.splits_log2),  // tiles < 2^25
          at.first_tile + ((share + 1) * at.tiles >> params.splits_log2)};
}

template <class Config>
struct Producer {
  using SharedMemory = typename Config::SharedMemory;

  SharedMemory& shared;
  const Params& params;
  const Coordinates at;
  tile::RunTimeRingPosition rings[Config::kGroups] = {};

  __device__ __forceinline__ void load_q() {
    const Packing& packing = params.packing;
    arch::barrier_arrive_and_expect(
        shared.q_ready,
        static_cast<uint32_t>(packing.heads * packing.queries * Config::kQKColumns * 2));
    for (int column = 0; column < Config::kQKColumns; column += arch::kSwizzleElements) {
      arch::load_tile(params.q, shared.q_ready, shared.q + column * Config::kRows, column,
                      at.first_head, at.first_query, at.kv_head * params.q_head_step,
                      at.batch * params.q_batch_step, arch::CacheHint::kNormal);
    }
  }

  __device__ __forceinline__ void load(const arch::TensorMap& map, int group, int tile, int columns,
                                       int head, int batch) {
    tile::RunTimeRingPosition& ring = rings[group];
    arch::barrier_wait(shared.stage_free[group][ring.stage], ring.parity ^ 1);
    arch::Barrier& ready = shared.stage_ready[group][ring.stage];
    uint16_t* const stage = shared.stage(group * params.stages + ring.stage);
    arch::barrier_arrive_and_expect(ready, static_cast<uint32_t>(Config::kKvTile * columns * 2));
    for (int column = 0; column < columns; column += arch::kSwizzleElements) {
      arch::load_tile(map, ready, stage + column * Config::kKvTile, column, tile * Config::kKvTile,
                      head, batch, arch::CacheHint::kNormal);
    }
    ring.advance(params.stages);
  }
  __device__ __forceinline__ void load_k(int group, int tile) {
    load(params.k, group, tile, Config::kQKColumns, at.kv_head * params.k_head_step,
         at.batch * params.k_batch_step);
  }
  __device__ __forceinline__ void load_v(int group, int tile) {
    load(params.v, group, tile, Config::kVColumns, at.kv_head * params.v_head_step,
         at.batch * params.v_batch_step);
  }

  // Tile after tile, to the groups in turn. Before a tile's V comes K of the next one where that is
  // multiplied first.
  __device__ __forceinline__ void load_share(const Share& share) {
    if (Config::kKAhead && share.begin < share.end) load_k(0, share.begin);
#pragma unroll 1
    for (int first = share.begin; first < share.end; first += Config::kGroups) {
#pragma unroll
      for (int group = 0; group < Config::kGroups; ++group) {
        const int tile = first + group, next = tile + (Config::kKAhead ? 1 : 0);
        if (next < share.end) load_k(group, next);
        if (tile < share.end) load_v(group, tile);
      }
    }
  }

  __device__ __forceinline__ void run() {
    if (at.tiles == 0) return;
    load_q();
#pragma unroll 1
    for (int share = at.first_share; share < at.end_share; ++share) {
      load_share(share_of(params, at, share));
    }
  }
};

}  // namespace bsk::sm90::attention_forward_split
