// Brings tiles of attn_mask into shared memory, in a ring of their own, where the copy engine takes
// the mask: one thread beside the one that copies K and V.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "src/cuda/tile/mask_tile.cuh"
#include "src/cuda/tile/ring.cuh"

namespace bsk::sm90::attention_forward {

template <class Config>
struct MaskProducer {
  using SharedMemory = typename Config::SharedMemory;
  using Record = tile::TileRecord<Config::kBlocks>;
  using Tile = tile::MaskTile<Config>;

  SharedMemory& shared;
  const Params& params;
  tile::RingPosition<Config::kMaskStages> ring;

  __device__ __forceinline__ int rows() const { return params.mask.row_stride == 0 ? 1 : 64; }

  // The rows of consumer w.
  __device__ __forceinline__ void copy(const Coordinates& at, const Record& record, int w) {
    arch::Barrier& ready = shared.mask_ready[ring.stage][w];
    arch::barrier_arrive_and_expect(
        ready, static_cast<uint32_t>(rows() * Config::kKvTile * Tile::kElementBytes));
    // What all heads read may be found in L2.
    const arch::CacheHint hint =
        params.mask_head_step == 0 ? arch::CacheHint::kNormal : arch::CacheHint::kEvictFirst;
    const int row = params.mask.row_stride == 0 ? 0 : at.first_row + 64 * w;
    uint8_t* destination = shared.mask_tiles[ring.stage] + Tile::box(w, 0);
#pragma unroll Record::kUnroll
    for (int b = 0; b < Config::kBlocks; ++b) {
      for (int key = 0; key < Config::kBlockKeys; key += Tile::kChunkKeys) {
        arch::load_tile(params.mask_map, ready, destination, record.blocks[b].first_key + key, row,
                        at.q_head * params.mask_head_step, at.batch * params.mask_batch_step, hint);
        destination += Tile::kBoxBytes;
      }
    }
  }

  __device__ __forceinline__ void copy_tiles() {
    for_each_task<Config>(params, kEveryRound, [&](int task, int) {
      const Coordinates at = coordinates_of<Config>(params, task);
      TileWalk<Config> walk(params, at);
      Record in_registers;
      Record& record = Record::kFitsInRegisters ? in_registers : shared.found[0];
      while (walk.next(record)) {
#pragma unroll 1
        for (int w = 0; w < Config::kConsumers; ++w) {
          arch::barrier_wait(shared.mask_free[ring.stage][w], ring.parity ^ 1);
          copy(at, record, w);
        }
        ring.advance();
      }
    });
  }

  __device__ __forceinline__ void run() {
    static_assert(!Config::kBold, "every task once");
    if (arch::thread_index() == arch::kWarpThreads) copy_tiles();
  }
};

}  // namespace bsk::sm90::attention_forward
