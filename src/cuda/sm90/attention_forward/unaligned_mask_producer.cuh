// Brings tiles of an attn_mask that the copy engine does not take into shared memory: three warps
// beside the thread that copies K and V.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "src/cuda/tile/mask_tile.cuh"
#include "src/cuda/tile/ring.cuh"

namespace bsk::sm90::attention_forward {

template <class Config>
struct UnalignedMaskProducer {
  using SharedMemory = typename Config::SharedMemory;
  using Record = tile::TileRecord<Config::kBlocks>;
  using Tile = tile::UnalignedMaskTile<Config>;

  static constexpr int kThreads = 3 * arch::kWarpThreads;
  static constexpr int kBarrier = 8;  // named; of these threads

  static constexpr auto no_bits() {
    if constexpr (Tile::kElementBytes == 1) return uint8_t{0};
    if constexpr (Tile::kElementBytes == 2) return uint16_t{0};
    if constexpr (Tile::kElementBytes == 4) return uint32_t{0};
  }
  using Element = decltype(no_bits());  // as bits

  SharedMemory& shared;
  const Params& params;
  tile::RingPosition<Config::kMaskStages> ring;

  static __device__ __forceinline__ int thread() {
    return arch::thread_index() - arch::kWarpThreads;
  }

  // A unit of some rows of a block, for one thread: where it lies in memory and belongs in shared
  // memory, of the first row, and what tells whether it is read.
  struct Units {
    uint64_t address;  // as far behind the row's first key as the unit behind the row's first one
    uint32_t place;
    int64_t row_bytes;
    int behind;     // bytes from behind the last key to the unit, were the row aligned
    int rows_left;  // that the mask has, from the first on
  };

  // Every kStep-th of kCount rows. A unit without a key is not read. The mask's first and last may
  // have bytes that are not its own, but of its allocation, which begins at a multiple of 256 bytes
  // and has as many as a multiple of that.
  template <int kStep, int kCount, bool kAllRows>
  static __device__ __forceinline__ void copy_units(const Units& units, int first) {
    if constexpr (kCount > 1 && kStep * Tile::kElementBytes % 16 != 0) {
      copy_units<2 * kStep, (kCount + 1) / 2, kAllRows>(units, first);
      copy_units<2 * kStep, kCount / 2, kAllRows>(units, first + kStep);
    } else {  // all begin equally far behind a multiple of 16 bytes
      uint64_t address = units.address + first * units.row_bytes;
      if (units.behind >= static_cast<int>(address % 16)) return;
      address &= ~uint64_t{15};
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int row = first + i * kStep;
        if (kAllRows || row < units.rows_left) {
          arch::copy_16_bytes(units.place + row * Tile::kPitch,
                              reinterpret_cast<const void*>(address));
        }
        address += kStep * units.row_bytes;
      }
    }
  }

  // kLanes threads a row, from unit kFirstUnit on. `source` is the first row's first key, of `keys`
  // that the mask has.
  template <int kFirstUnit, int kLanes>
  __device__ __forceinline__ void copy_rows(const Element* source, uint8_t* destination, int rows,
                                            int keys) const {
    constexpr int kStep = kThreads / kLanes, kEach = 64 / kStep;
    const int row = thread() / kLanes, unit = kFirstUnit + thread() % kLanes;
    const int64_t row_bytes = params.mask.row_stride * Tile::kElementBytes;
    const Units units = {
        reinterpret_cast<uint64_t>(source) + row * row_bytes + 16 * unit,
        arch::in_register(arch::shared_address(destination) + row * Tile::kPitch + 16 * unit),
        row_bytes, 16 * unit - keys * Tile::kElementBytes, rows - row};
    if (rows == 64) {
      copy_units<kStep, kEach, true>(units, 0);
      copy_units<kStep, 1, false>(units, kEach * kStep);
    } else {
      copy_units<kStep, kEach + 1, false>(units, 0);
    }
  }

  // Element by element, where keys do not lie side by side but rows may; `source` is the first
  // row's first key.
  __device__ __forceinline__ void gather_rows(const Element* source, uint8_t* destination, int rows,
                                              int keys) const {
    constexpr int kBatch =
        Config::kRegisters.producer >= 56 ? 4 : 1;  // that a thread has under way
#pragma unroll 1
    for (int i = thread(); i < 64 * keys; i += kBatch * kThreads) {
      Element elements[kBatch] = {};
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int row = (i + n * kThreads) % 64, key = (i + n * kThreads) / 64;
        if (row < rows && key < keys) {
          elements[n] = source[row * params.mask.row_stride + key * params.mask.column_stride];
        }
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int row = (i + n * kThreads) % 64, key = (i + n * kThreads) / 64;
        if (row < rows && key < keys) {
          *reinterpret_cast<Element*>(destination + row * Tile::kPitch +
                                      key * Tile::kElementBytes) = elements[n];
        }
      }
    }
  }

  // The rows of consumer w, the first of which is `first_row` of the head that begins at `head`.
  // What rows behind the last and keys behind the last have is left as it was: the former are not
  // stored, the visible range removes the latter.
  __device__ __forceinline__ void fill(const Element* head, int first_row, const Record& record,
                                       int w) {
    const bool side_by_side = params.mask.column_stride == 1;
    const int rows_left = params.q_len - first_row;
    const int rows = params.mask.row_stride == 0 ? 1 : rows_left < 64 ? rows_left : 64;
    arch::barrier_wait(shared.mask_free[ring.stage][w], ring.parity ^ 1);
    head += first_row * params.mask.row_stride;
#pragma unroll 1
    for (int b = 0; b < Config::kBlocks; ++b) {
      const int first_key = record.blocks[b].first_key;
      const int keys_left = params.visibility.kv_len - first_key;
      if (keys_left <= 0) continue;
      const int keys = keys_left < Config::kBlockKeys ? keys_left : Config::kBlockKeys;
      uint8_t* const destination = shared.mask_tiles[ring.stage] + Tile::block(w, b);
      if (side_by_side) {
        constexpr int kLanes = Tile::kUnits <= 4 ? 4 : Tile::kUnits <= 8 ? 8 : 16;
        static_assert(Tile::kUnits <= kLanes + 1);
        copy_rows<0, kLanes>(head + first_key, destination, rows, keys);
        if (Tile::kUnits > kLanes) copy_rows<kLanes, 1>(head + first_key, destination, rows, keys);
      } else {
        gather_rows(head + first_key * params.mask.column_stride, destination, rows, keys);
      }
    }
    if (side_by_side) {
      arch::barrier_arrive_after_copies(shared.mask_ready[ring.stage][w]);
    } else {
      arch::barrier_arrive(shared.mask_ready[ring.stage][w]);
    }
  }

  // One thread walks, in shared memory: the others have no registers for it. It makes a record
  // while the others read the one before.
  __device__ __forceinline__ void run() {
    static_assert(!Config::kBold, "every task once");
    using Walk = TileWalk<Config>;
    static_assert(sizeof(Walk) <= sizeof shared.mask_walk);
    Walk& walk = *reinterpret_cast<Walk*>(shared.mask_walk);
    const bool walks = thread() == 0;
    int place = 0;
    for_each_task<Config>(params, kEveryRound, [&](int task, int) {
      const Coordinates at = coordinates_of<Config>(params, task);
      if (walks) new (&walk) Walk(params, at);
      const auto* const head = static_cast<const Element*>(params.mask.data) +
                               at.batch * params.mask.batch_stride +
                               at.q_head * params.mask.head_stride;
      for (;;) {
        Record& record = shared.found[place];
        place ^= 1;
        if (walks && !walk.next(record)) record.flags = Record::kNoTile;
        arch::named_barrier_sync(kBarrier, kThreads);
        if (record.flags == Record::kNoTile) break;
#pragma unroll 1
        for (int w = 0; w < Config::kConsumers; ++w) fill(head, at.first_row + 64 * w, record, w);
        ring.advance();
      }
    });
    arch::wait_for_copies();
  }
};

}  // namespace bsk::sm90::attention_forward
