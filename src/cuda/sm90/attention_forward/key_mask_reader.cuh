// Finds the tiles of keys that a mask of keys leaves: one warp, ahead of the thread that copies K
// and V.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "src/cuda/tile/key_mask.cuh"
#include "src/cuda/tile/ring.cuh"

namespace bsk::sm90::attention_forward {

template <class Config>
struct KeyMaskReader {
  using SharedMemory = typename Config::SharedMemory;
  using Record = tile::TileRecord<Config::kBlocks>;
  using KeyMask = tile::KeyMask<Config::kBlockKeys>;
  static constexpr int kWords = Config::kKvTile / 32;

  SharedMemory& shared;
  const Params& params;
  tile::RingPosition<Config::kMaskStages> ring;

  // The next tile with a key that the mask keeps; lane i gets the bits of its keys from 32i on.
  __device__ __forceinline__ bool next(TileWalk<Config>& walk, KeyMask& mask, Record& record,
                                       uint32_t& kept) {
    kept = 0;
    const bool found = walk.next(record, [&](int b, const tile::KeyBlock& block) {
      const uint32_t bits = mask.bits_of_block(block.first_key);
      const int from = tile::lane_index() - b * Config::kBlockKeys / 32;
      const uint32_t moved = arch::shuffle(bits, from & (arch::kWarpThreads - 1));
      if (from >= 0) kept |= moved << b * Config::kBlockKeys % 32;
      return arch::warp_any(bits != 0);
    });
    if (arch::warp_any(tile::lane_index() < kWords && kept != ~0u)) {
      record.flags |= Record::kHidesKeys;
    }
    return found;
  }

  __device__ __forceinline__ void hand_over(const Record& record, uint32_t kept) {
    arch::barrier_wait(shared.mask_free[ring.stage][0], ring.parity ^ 1);
    const int lane = tile::lane_index();
    if (lane < kWords) shared.kept_keys[ring.stage][lane] = kept;
    if (lane == 0) shared.found[ring.stage] = record;
    arch::sync_warp();
    if (lane == 0) arch::barrier_arrive(shared.mask_ready[ring.stage][0]);
    ring.advance();
  }

  __device__ __forceinline__ void find(const Coordinates& at) {
    TileWalk<Config> walk(params, at);
    KeyMask mask(params.mask,
                 at.batch * params.mask.batch_stride + at.q_head * params.mask.head_stride,
                 params.visibility.kv_len);
    Record last, following;
    uint32_t kept, kept_following;
    bool more = next(walk, mask, last, kept);
    if (!more) last.flags = Record::kNoTile;
    for (;;) {
      more = more && next(walk, mask, following, kept_following);
      if (more) last.flags |= Record::kHasNext;
      hand_over(last, kept);
      if (!more) return;
      last = following;
      kept = kept_following;
    }
  }

  __device__ __forceinline__ void run() {
    for_each_task_fed<Config, /*kIsWarp=*/true>(
        shared, params, [this](int task) { find(coordinates_of<Config>(params, task)); });
  }
};

}  // namespace bsk::sm90::attention_forward
