// Brings tiles of attn_mask into shared memory, in a ring of their own: one thread beside the one
// that copies K and V, or three warps where the copy engine does not take the mask.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/arch/tma.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/mask_tile.cuh"
#include "src/cuda/tile/ring.cuh"

namespace bsk::sm90::attention_forward {

template <class Config>
struct MaskProducer {
  using SharedMemory = typename Config::SharedMemory;
  using Record = tile::TileRecord<Config::kBlocks>;
  using Tile = tile::MaskTile<Config>;

  static constexpr int kFillingWarps = 3;  // where the copy engine does not take the mask
  static constexpr int kFillers = kFillingWarps * arch::kWarpThreads;
  static constexpr int kBarrier = 8;  // named; of the fillers
  static constexpr int kWarpRows = (64 + kFillingWarps - 1) / kFillingWarps;

  static constexpr auto no_bits() {
    if constexpr (Tile::kElementBytes == 1) return uint8_t{0};
    if constexpr (Tile::kElementBytes == 2) return uint16_t{0};
    if constexpr (Tile::kElementBytes == 4) return uint32_t{0};
  }
  using Element = decltype(no_bits());  // as bits

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
    uint8_t* destination = shared.mask_tiles[ring.stage] + Tile::box(w, 0);
    if constexpr (Config::kMaskGroup == 1) {
      copy_boxes(record, destination, [&](uint8_t* box, int key) {
        arch::load_tile(params.mask_map, ready, box, key, row, at.q_head * params.mask_head_step,
                        at.batch * params.mask_batch_step, hint);
      });
    } else {
      const int first =
          at.batch * params.mask_rows.batch_rows + at.q_head * params.mask_rows.head_rows + row;
      const int end = first + (rows() == 1 ? 1 : Config::kMaskGroup);
#pragma unroll 1
      for (int of_all = first; of_all < end; ++of_all) {
        const int in_group = of_all % Config::kMaskGroup;
        const arch::TensorMap& map =
            in_group < params.mask_rows.rest ? params.mask_map : params.whole_groups_map;
        copy_boxes(record, destination, [&](uint8_t* box, int key) {
          arch::load_tile(map, ready, box, in_group * params.mask_rows.stride + key,
                          of_all / Config::kMaskGroup, 0, 0, hint);
        });
        destination += Tile::kGroupStride;
      }
    }
  }
  // The boxes of a row's chunks, the first at `destination`.
  template <class Copy>
  static __device__ __forceinline__ void copy_boxes(const Record& record, uint8_t* destination,
                                                    const Copy& copy) {
#pragma unroll Record::kUnroll
    for (int b = 0; b < Config::kBlocks; ++b) {
      for (int key = 0; key < Config::kBlockKeys; key += Tile::kChunkKeys) {
        copy(destination, record.blocks[b].first_key + key);
        destination += Tile::kBoxBytes;
      }
    }
  }

  // Three warps, element by element: the rows of all consumers, of masks that the copy engine does
  // not take. Rows and keys beyond the end read the last one; the visible range removes them
  // afterwards.
  __device__ __forceinline__ void fill(const Coordinates& at, const Record& record) {
    constexpr int kPerWord = 4 / Tile::kElementBytes;
    constexpr int kRowWords = Config::kBlockKeys / kPerWord;
    // Words that a lane has under way.
    constexpr int kBatch = Config::kRegisters.producer >= 56 ? 4 : 1;
    const auto* const head = static_cast<const Element*>(params.mask.data) +
                             at.batch * params.mask.batch_stride +
                             at.q_head * params.mask.head_stride;
    const int first_row = (arch::thread_index() / arch::kWarpThreads - 1) * kWarpRows;
    const int end_row = first_row + kWarpRows < rows() ? first_row + kWarpRows : rows();
    const int words = (end_row - first_row) * kRowWords;
    const int last_row = params.q_len - 1, last_key = params.visibility.kv_len - 1;
#pragma unroll 1
    for (int part = 0; part < Config::kConsumers * Config::kBlocks; ++part) {
      const int w = part % Config::kConsumers, b = part / Config::kConsumers;
      if (b == 0) arch::barrier_wait(shared.mask_free[ring.stage][w], ring.parity ^ 1);
      const int first_key = record.blocks[b].first_key;
#pragma unroll 1
      for (int i = tile::lane_index(); i < words; i += kBatch * arch::kWarpThreads) {
        Element elements[kBatch][kPerWord];
#pragma unroll
        for (int n = 0; n < kBatch; ++n) {
          const int word = i + n * arch::kWarpThreads;
          const int row = at.first_row + 64 * w + first_row + word / kRowWords;
          const Element* const source =
              head + (row < last_row ? row : last_row) * params.mask.row_stride;
#pragma unroll
          for (int e = 0; e < kPerWord; ++e) {
            const int key = first_key + word % kRowWords * kPerWord + e;
            elements[n][e] = source[(key < last_key ? key : last_key) * params.mask.column_stride];
          }
        }
#pragma unroll
        for (int n = 0; n < kBatch; ++n) {
          const int word = i + n * arch::kWarpThreads;
          const int byte = b * Config::kBlockKeys * Tile::kElementBytes + word % kRowWords * 4;
          const int box = Tile::box(w, byte / Tile::kChunkBytes);
          uint8_t* const destination =
              shared.mask_tiles[ring.stage] + box +
              Tile::place(box, first_row + word / kRowWords, byte % Tile::kChunkBytes);
          uint32_t bits = 0;
#pragma unroll
          for (int e = 0; e < kPerWord; ++e) {
            bits |= static_cast<uint32_t>(elements[n][e]) << 8 * Tile::kElementBytes * e;
          }
          if (word < words) *reinterpret_cast<uint32_t*>(destination) = bits;
        }
      }
    }
  }

  __device__ __forceinline__ void copy_tiles() {
    for_each_task(params, kEveryRound, [&](int task, int) {
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

  // One thread walks, in shared memory: who fills has no registers for it.
  __device__ __forceinline__ void fill_tiles() {
    using Walk = TileWalk<Config>;
    static_assert(sizeof(Walk) <= sizeof shared.mask_walk);
    Walk& walk = *reinterpret_cast<Walk*>(shared.mask_walk);
    Record& record = shared.found[0];
    const bool walks = arch::thread_index() == arch::kWarpThreads;
    for_each_task(params, kEveryRound, [&](int task, int) {
      if (walks) new (&walk) Walk(params, coordinates_of<Config>(params, task));
      for (;;) {
        if (walks && !walk.next(record)) record.flags = Record::kNoTile;
        arch::named_barrier_sync(kBarrier, kFillers);
        const bool more = record.flags != Record::kNoTile;
        if (more) fill(coordinates_of<Config>(params, task), record);
        arch::named_barrier_sync(kBarrier, kFillers);
        if (!more) break;
        if (walks) {
#pragma unroll
          for (int w = 0; w < Config::kConsumers; ++w) {
            arch::barrier_arrive(shared.mask_ready[ring.stage][w]);
          }
        }
        ring.advance();
      }
    });
  }

  __device__ __forceinline__ void run() {
    static_assert(!Config::kBold, "every task once");
    if (Config::kMaskGroup > 1 && params.mask_rows.stride == 0) {
      fill_tiles();
    } else if (arch::thread_index() == arch::kWarpThreads) {
      copy_tiles();
    }
  }
};

}  // namespace bsk::sm90::attention_forward
