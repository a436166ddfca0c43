// Brings tiles of attn_mask into shared memory: three warps beside the one that copies K and V, in
// a ring of their own.
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
  using Tile = tile::MaskTile<Config::kMask, Config::kBlockKeys>;
  static constexpr int kThreads = 96;
  static constexpr int kBarrier = 8;  // named; of the three warps

  SharedMemory& shared;
  const Params& params;
  tile::RingPosition<Config::kMaskStages> ring;

  __device__ __forceinline__ int rows() const { return params.mask.row_stride == 0 ? 1 : 64; }

  // One thread: the rows of consumer w, by the copy engine.
  __device__ __forceinline__ void copy(const Coordinates& at, const Record& record, int w) {
    arch::Barrier& ready = shared.mask_ready[ring.stage][w];
    arch::barrier_arrive_and_expect(
        ready, static_cast<uint32_t>(rows() * Config::kKvTile * Tile::kElementBytes));
    // What all heads read may be found in L2.
    const arch::CacheHint hint =
        params.mask_head_step == 0 ? arch::CacheHint::kNormal : arch::CacheHint::kEvictFirst;
    const int row = params.mask.row_stride == 0 ? 0 : at.first_row + 64 * w;
    uint8_t* destination = shared.mask_tiles[ring.stage][w];
#pragma unroll
    for (int b = 0; b < Config::kBlocks; ++b) {
      for (int key = 0; key < Config::kBlockKeys; key += Tile::kChunkKeys) {
        arch::load_tile(params.mask_map, ready, destination, record.blocks[b].first_key + key, row,
                        at.q_head * params.mask_head_step, at.batch * params.mask_batch_step, hint);
        destination += Tile::kChunkStride;
      }
    }
  }

  // All threads: the same element by element, for masks that the copy engine does not take. Rows
  // and keys beyond the ends read the last one; the visible range removes them afterwards.
  __device__ __forceinline__ void fill(const Coordinates& at, const Record& record, int w) {
    constexpr int kPerWord = 4 / Tile::kElementBytes;
    constexpr int kWords = Config::kBlockKeys / kPerWord;  // of a row
    const tile::MaskTensor& mask = params.mask;
    const int64_t head = at.batch * mask.batch_stride + at.q_head * mask.head_stride;
#pragma unroll
    for (int b = 0; b < Config::kBlocks; ++b) {
#pragma unroll 4
      for (int i = arch::thread_index() - arch::kWarpThreads; i < rows() * kWords; i += kThreads) {
        const int tile_row = i / kWords, first = i % kWords * kPerWord;
        const int row = at.first_row + 64 * w + tile_row;
        const int64_t start = head + (row <= at.last_row ? row : at.last_row) * mask.row_stride;
        uint32_t word = 0;
#pragma unroll
        for (int e = 0; e < kPerWord; ++e) {
          const int key = record.blocks[b].first_key + first + e,
                    last = params.visibility.kv_len - 1;
          const int64_t element = start + (key < last ? key : last) * mask.column_stride;
          if constexpr (Tile::kElementBytes == 1) {
            word |= static_cast<uint32_t>(static_cast<const uint8_t*>(mask.data)[element]) << 8 * e;
          } else if constexpr (Tile::kElementBytes == 2) {
            word |= static_cast<uint32_t>(static_cast<const uint16_t*>(mask.data)[element])
                    << 16 * e;
          } else {
            word = static_cast<const uint32_t*>(mask.data)[element];
          }
        }
        const int tile_key = b * Config::kBlockKeys + first;
        const int place = Tile::place(tile_row, tile_key % Tile::kChunkKeys * Tile::kElementBytes);
        uint8_t* const chunk =
            shared.mask_tiles[ring.stage][w] + tile_key / Tile::kChunkKeys * Tile::kChunkStride;
        *reinterpret_cast<uint32_t*>(chunk + place) = word;
      }
    }
    arch::named_barrier_sync(kBarrier, kThreads);
    if (arch::thread_index() == arch::kWarpThreads) {
      arch::barrier_arrive(shared.mask_ready[ring.stage][w]);
    }
  }

  __device__ __forceinline__ void run() {
    static_assert(!Config::kBold, "every task once");
    const bool copied = params.mask_is_copied;
    if (copied && arch::thread_index() != arch::kWarpThreads) return;
    for_each_task(params, kEveryRound, [&](int task, int) {
      const Coordinates at = coordinates_of<Config>(params, task);
      TileWalk<Config> walk(params, at);
      Record record;
      while (walk.next(record)) {
#pragma unroll 1
        for (int w = 0; w < Config::kConsumers; ++w) {
          arch::barrier_wait(shared.mask_free[ring.stage][w], ring.parity ^ 1);
          if (copied) {
            copy(at, record, w);
          } else {
            fill(at, record, w);
          }
        }
        ring.advance();
      }
    });
  }
};

}  // namespace bsk::sm90::attention_forward
