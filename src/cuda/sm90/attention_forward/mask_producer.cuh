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

// Moves a row's keys by `offset` bytes: 16 bytes begin in `unit` and end in the next one.
template <int kElementBytes>
__device__ __forceinline__ void take_across(uint32_t (&unit)[4], const uint32_t (&next)[4],
                                            int offset) {
  uint32_t words[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i] = i < 4 ? unit[i] : next[i - 4];
#pragma unroll
  for (int i = 0; i < 6; ++i) words[i] = offset & 8 ? words[i + 2] : words[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) words[i] = offset & 4 ? words[i + 1] : words[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    unit[i] =
        kElementBytes == 4 ? words[i] : arch::shift_pair(words[i], words[i + 1], 8 * (offset & 3));
  }
}

template <class Config>
struct MaskProducer {
  using SharedMemory = typename Config::SharedMemory;
  using Record = tile::TileRecord<Config::kBlocks>;
  using Tile = tile::MaskTile<Config::kMask, Config::kBlockKeys>;

  static constexpr int kFillingWarps = 3;  // where the copy engine does not take the mask
  static constexpr int kFillers = kFillingWarps * arch::kWarpThreads;
  static constexpr int kBarrier = 8;  // named; of the fillers

  // Who fills what: a warp has some of the rows, and kUnits lanes are busy with one of them.
  static constexpr int kUnits = Config::kBlockKeys * Tile::kElementBytes / 16;  // of a row
  static constexpr int kBatch = 1;  // units that a lane moves at once; two would spill
  static constexpr int kRowsAtOnce = arch::kWarpThreads / kUnits;
  static constexpr int kWarpRows = round_up((64 + kFillingWarps - 1) / kFillingWarps, kRowsAtOnce);
  static_assert(arch::kWarpThreads % kUnits == 0 && kWarpRows <= arch::kWarpThreads);

  // Where a consumer's rows of a block of keys lie, in bytes from the mask's first element.
  struct Rows {
    int64_t start;
    int first;  // their first one in the head
  };

  SharedMemory& shared;
  const Params& params;
  tile::RingPosition<Config::kMaskStages> ring;

  __device__ __forceinline__ int rows() const { return params.mask.row_stride == 0 ? 1 : 64; }
  __device__ __forceinline__ int first_warp_row() const {
    return (arch::thread_index() / arch::kWarpThreads - 1) * kWarpRows;
  }
  __device__ __forceinline__ int end_warp_row() const {
    const int end = first_warp_row() + kWarpRows;
    return end < rows() ? end : rows();
  }

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

  // Where 16-byte unit `unit` of a row of consumer w's tile lies.
  __device__ __forceinline__ uint8_t* place(int w, int tile_row, int unit) const {
    constexpr int kChunkUnits = Tile::kChunkBytes / 16;
    return shared.mask_tiles[ring.stage][w] + unit / kChunkUnits * Tile::kChunkStride +
           Tile::place(tile_row, unit % kChunkUnits * 16);
  }

  // Bytes from the mask's first element to the first key of a row. Rows beyond the end read the
  // last one; the visible range removes them afterwards.
  __device__ __forceinline__ int64_t start_of(const Rows& rows, int tile_row) const {
    const int row = rows.first + tile_row;
    return rows.start + (row < params.q_len ? row : params.q_len - 1) * params.mask.row_stride *
                            Tile::kElementBytes;
  }
  // How far a place of the mask lies behind a 16-byte boundary of memory.
  __device__ __forceinline__ int offset_in_unit(int64_t byte) const {
    return static_cast<int>(reinterpret_cast<uint64_t>(params.mask.data) + byte) & 15;
  }
  __device__ __forceinline__ bool is_inside(int64_t unit) const {
    return unit >= 0 && unit <= params.mask_span_bytes - 16;
  }
  // The 16 bytes from `unit` on, zeros where the mask has none.
  __device__ __forceinline__ void load_edge(int64_t unit, uint32_t (&words)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = 0;
#pragma unroll 1
    for (int word = 0; word < 4; ++word) {
      uint32_t bits = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t byte = unit + 4 * word + i;
        if (byte >= 0 && byte < params.mask_span_bytes) {
          bits |= static_cast<uint32_t>(mask_data()[byte]) << 8 * i;
        }
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) words[i] = words[i + 1];  // no registers by number
      words[3] = bits;
    }
  }
  __device__ __forceinline__ const uint8_t* mask_data() const {
    return static_cast<const uint8_t*>(params.mask.data);
  }

  // Block b of consumer w's tile, first half, where keys lie side by side: each row from the
  // boundary in front of its first key on, so that memory is read in whole units.
  __device__ __forceinline__ void request(const Rows& rows, int w, int b) {
    const int unit = tile::lane_index() % kUnits;
#pragma unroll 2
    for (int row = first_warp_row() + tile::lane_index() / kUnits; row < end_warp_row();
         row += kRowsAtOnce) {
      const int64_t start = start_of(rows, row);
      const int64_t source = start - offset_in_unit(start) + 16 * unit;
      uint8_t* const destination = place(w, row, b * kUnits + unit);
      if (is_inside(source)) {
        arch::copy_16_bytes(destination, mask_data() + source);
      } else {
        uint32_t words[4];
        load_edge(source, words);
        store(destination, words);
      }
    }
  }

  // Second half: moves each row's keys to its beginning, in place. A unit takes what it lacks from
  // the next one; a row's last unit, which has none behind it, is a lane's of its own.
  __device__ __forceinline__ void align(const Rows& rows, int w, int b) {
    const int last_row = first_warp_row() + tile::lane_index();
    const int64_t last_start = start_of(rows, last_row);
    const int last_offset = last_row < end_warp_row() ? offset_in_unit(last_start) : 0;
    uint32_t behind[4];
    if (last_offset != 0) {
      const int64_t source = last_start - last_offset + 16 * kUnits;
      if (is_inside(source)) {
        arch::load_16_bytes(mask_data() + source, behind);
      } else {
        load_edge(source, behind);
      }
    }
    arch::wait_for_copies();
    arch::sync_warp();
    if constexpr (kUnits > 1) {
      const int unit = tile::lane_index() % kUnits;
#pragma unroll 1
      for (int first = first_warp_row(); first < end_warp_row(); first += kBatch * kRowsAtOnce) {
        uint32_t moved[kBatch][4];
        bool moves[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int row = first + i * kRowsAtOnce + tile::lane_index() / kUnits;
          const int offset = offset_in_unit(start_of(rows, row));
          moves[i] = row < end_warp_row() && unit < kUnits - 1 && offset != 0;
          if (moves[i]) {
            uint32_t next[4];
            arch::load_16_bytes(place(w, row, b * kUnits + unit), moved[i]);
            arch::load_16_bytes(place(w, row, b * kUnits + unit + 1), next);
            take_across<Tile::kElementBytes>(moved[i], next, offset);
          }
        }
        arch::sync_warp();
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int row = first + i * kRowsAtOnce + tile::lane_index() / kUnits;
          if (moves[i]) store(place(w, row, b * kUnits + unit), moved[i]);
        }
      }
      arch::sync_warp();
    }
    if (last_offset != 0) {
      uint8_t* const last = place(w, last_row, b * kUnits + kUnits - 1);
      uint32_t moved[4];
      arch::load_16_bytes(last, moved);
      take_across<Tile::kElementBytes>(moved, behind, last_offset);
      store(last, moved);
    }
  }
  static __device__ __forceinline__ void store(uint8_t* destination, const uint32_t (&words)[4]) {
    arch::store_16_bytes(destination, words[0], words[1], words[2], words[3]);
  }

  // Block b of consumer w's tile element by element. Keys beyond the end read the last one.
  __device__ __forceinline__ void gather(const Rows& rows, int w, int b, int first_key) {
    constexpr int kPerWord = 4 / Tile::kElementBytes;
    constexpr int kWords = Config::kBlockKeys / kPerWord;  // of a row
    const int64_t step = params.mask.column_stride * Tile::kElementBytes;
    const int last_key = params.visibility.kv_len - 1;
#pragma unroll 4
    for (int i = tile::lane_index(); i < (end_warp_row() - first_warp_row()) * kWords;
         i += arch::kWarpThreads) {
      const int row = first_warp_row() + i / kWords, word = i % kWords;
      const uint8_t* const source = mask_data() + start_of(rows, row);
      uint32_t bits = 0;
#pragma unroll
      for (int e = 0; e < kPerWord; ++e) {
        const int key = first_key + word * kPerWord + e;
        const uint8_t* const element = source + (key < last_key ? key : last_key) * step;
        if constexpr (Tile::kElementBytes == 1) {
          bits |= static_cast<uint32_t>(*element) << 8 * e;
        } else if constexpr (Tile::kElementBytes == 2) {
          bits |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(element)) << 16 * e;
        } else {
          bits = *reinterpret_cast<const uint32_t*>(element);
        }
      }
      uint8_t* const unit = place(w, row, b * kUnits + word / 4);
      *reinterpret_cast<uint32_t*>(unit + word % 4 * 4) = bits;
    }
  }

  // Three warps: the rows of all consumers, of masks that the copy engine does not take.
  __device__ __forceinline__ void fill(const Coordinates& at, const Record& record) {
    const bool side_by_side = params.mask_span_bytes != 0;
    Rows rows;
    const int64_t head = at.batch * params.mask.batch_stride + at.q_head * params.mask.head_stride;
#pragma unroll 1
    for (int b = 0; b < Config::kBlocks; ++b) {
      const int first_key = record.blocks[b].first_key;
      rows.start = (head + (side_by_side ? first_key : 0)) * Tile::kElementBytes;
#pragma unroll 1
      for (int w = 0; w < Config::kConsumers; ++w) {
        if (b == 0) arch::barrier_wait(shared.mask_free[ring.stage][w], ring.parity ^ 1);
        rows.first = at.first_row + 64 * w;
        if (side_by_side) {
          request(rows, w, b);
        } else {
          gather(rows, w, b, first_key);
        }
      }
#pragma unroll 1
      for (int w = 0; side_by_side && w < Config::kConsumers; ++w) {
        rows.first = at.first_row + 64 * w;
        align(rows, w, b);
      }
    }
  }

  __device__ __forceinline__ void copy_tiles() {
    for_each_task(params, kEveryRound, [&](int task, int) {
      const Coordinates at = coordinates_of<Config>(params, task);
      TileWalk<Config> walk(params, at);
      Record record;
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
    if (!params.mask_is_copied) {
      fill_tiles();
    } else if (arch::thread_index() == arch::kWarpThreads) {
      copy_tiles();
    }
  }
};

}  // namespace bsk::sm90::attention_forward
