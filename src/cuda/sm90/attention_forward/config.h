// The static facts of the throughput kernel, readable on the host. DESIGN.md explains them.
#pragma once

#include "src/cuda/arch/types.h"
#include "src/cuda/tile/divisor.h"
#include "src/cuda/tile/params.h"

namespace bsk::sm90::attention_forward {

// What the kernel reads; one struct for all configurations. Lengths and strides in elements.
struct Params {
  arch::TensorMap q;  // [batch, q_heads, q_len, head_dim], boxes of kQTile rows x 64 columns
  arch::TensorMap k;  // [batch, kv_heads, kv_len, head_dim], boxes of kBlockKeys rows x 64 columns
  arch::TensorMap v;  // [batch, kv_heads, kv_len, v_head_dim], boxes as k's
  // [batch, q_heads, q_len, kv_len], boxes of 64 rows (1, where all rows are the same) and a chunk
  // of columns (tile/mask_tile.cuh); not of an unaligned mask.
  arch::TensorMap mask_map;
  // 0 where the tensor repeats along that dimension (its stride is 0), else 1.
  int32_t q_head_step, q_batch_step, k_head_step, k_batch_step, v_head_step, v_batch_step;
  int32_t mask_head_step, mask_batch_step;

  void* out;  // [batch, q_heads, q_len, v_head_dim], rows 16-byte aligned
  int64_t out_batch_stride, out_head_stride, out_row_stride;
  float* lse;  // [batch, q_heads, q_len], natural log; null = not wanted

  tile::Divisor q_heads, q_heads_per_kv_head;
  int32_t q_len, v_head_dim;
  float scale_log2;  // scale * log2(e); not used where scores are transformed
  int32_t chains;    // of a chained configuration
  tile::Visibility visibility;
  tile::BlockLists lists;
  tile::ScoreTransform transform;
  tile::MaskTensor mask;
  tile::Schedule schedule;
};

constexpr int kSharedPerMultiprocessor = 228 * 1024;
constexpr int kSharedReservedPerCta = 1024;  // the system's
constexpr int kMaskTileStages = 2;
constexpr int kFoundStages = 6;

// Plans of block masks' tasks (task_plan.cuh): for at most so many CTAs; each is so many tasks
// ahead of its own, and knows the costs of so many.
constexpr int kPlannedCtas = 160;
constexpr int kPlannedTasks = 4;
constexpr int kPlannedCosts = 256;

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The sizes that decide everything else. head_dim: columns of Q and K that are multiplied (a
// multiple of 16); v_head_dim: columns of O (an N of wgmma). Both may exceed the problem's: the
// copy engine fills in zeros. consumers: warpgroups of 64 query rows each. A tile of kv_tile keys
// is gathered from kv_tile / block_keys places of K and V. mask_bytes: of an element of attn_mask
// where tiles of it are brought into shared memory, else 0. mask_unaligned: the copy engine does
// not take it. shares_rows: tiles of 64 rows are shared out evenly among CTAs (tile/scheduler.cuh).
// chained, which does that too: tiles of keys are visited in Params::chains interleaved chains, one
// after the other, as sm90_attention_forward_small's warpgroups have them (problem.h, chains_of).
// plans_tasks: the tasks of a block mask are dealt out by the lengths of its lists (task_plan.cuh).
// skips_unseen, of chains: consumers pass over tiles of which their own rows see nothing.
struct Shape {
  int head_dim = 0, v_head_dim = 0, consumers = 0, kv_tile = 0, block_keys = 0, mask_bytes = 0;
  bool mask_unaligned = false, shares_rows = false, chained = false, plans_tasks = false,
       skips_unseen = false;

  constexpr bool operator==(const Shape&) const = default;
  constexpr int q_tile() const { return 64 * consumers; }
  constexpr int threads() const { return (1 + consumers) * arch::kWarpgroupThreads; }
  constexpr int blocks() const { return kv_tile / block_keys; }
  constexpr int qk_columns() const { return round_up(head_dim, arch::kSwizzleElements); }  // stored
  constexpr int v_columns() const { return round_up(v_head_dim, arch::kSwizzleElements); }
  constexpr int q_bytes() const { return q_tile() * qk_columns() * 2; }
  constexpr int stage_bytes() const {
    return kv_tile * (qk_columns() > v_columns() ? qk_columns() : v_columns()) * 2;
  }
  // Of all consumers (tile/mask_tile.cuh).
  constexpr int mask_stage_bytes() const {
    const int row = mask_unaligned ? blocks() * tile::unaligned_mask_pitch(block_keys * mask_bytes)
                                   : kv_tile * mask_bytes;
    return consumers * 64 * row;
  }
  constexpr int masks_bytes() const { return kMaskTileStages * mask_stage_bytes(); }
  // Three consumers go at their own pace, each with its own rows of Q, of which the next are there
  // before the last are done with.
  constexpr int q_places() const { return consumers == 3 && mask_bytes == 0 ? 2 : 1; }
  constexpr int q_box_rows() const { return q_places() > 1 ? 64 : q_tile(); }
  // Of a warp: O on its way out (tile/store_rows.cuh), where that fits in 64 columns; before that
  // what the chain before has computed (tile/earlier_chain.cuh), O in fp32 and four values a
  // thread.
  constexpr int outgoing_bytes() const {
    if (chained) return 16 * v_head_dim * 4 + arch::kWarpThreads * 16;
    return q_places() > 1 ? tile::kStagingBytes : 0;
  }
  constexpr int outgoing_bytes_of_all() const { return 4 * consumers * outgoing_bytes(); }
  constexpr int bookkeeping_bytes() const {
    return blocks() > 2 || plans_tasks ? 3072 : q_places() > 1 ? 2048 : 1024;
  }
  constexpr int stages_if(int ctas) const {
    const int room = kSharedPerMultiprocessor / ctas - kSharedReservedPerCta -
                     q_places() * q_bytes() - outgoing_bytes_of_all() - masks_bytes() -
                     bookkeeping_bytes();
    return room / stage_bytes() < 8 ? room / stage_bytes() : 8;
  }
  // One consumer leaves room for a second CTA on the multiprocessor, if the ring stays long enough.
  constexpr int ctas_per_multiprocessor() const {
    return consumers == 1 && stages_if(2) >= 3 ? 2 : 1;
  }
  constexpr int stages() const { return stages_if(ctas_per_multiprocessor()); }
  constexpr int shared_bytes() const {
    return q_places() * q_bytes() + outgoing_bytes_of_all() + stages() * stage_bytes() +
           masks_bytes() + bookkeeping_bytes();
  }
};

// Registers per thread by role, for setmaxnreg: 64 Ki registers of a multiprocessor, dealt out in
// warpgroups. Equal numbers: nothing is reassigned.
struct RegisterBudget {
  int producer, consumer;
};
constexpr RegisterBudget registers_for(const Shape& shape) {
  if (shape.consumers == 3) return {32, 160};
  if (shape.consumers == 2) {
    const bool masked = shape.mask_bytes > 0;
    if (masked && shape.v_head_dim <= 192) return {56, 224};
    return masked || shape.blocks() > 1 ? RegisterBudget{40, 232} : RegisterBudget{24, 240};
  }
  return shape.ctas_per_multiprocessor() == 2 ? RegisterBudget{40, 216} : RegisterBudget{255, 255};
}

// Whether a thread of two consumers has room for the scores of two tiles (a bool mask takes some,
// and so does an unaligned one): QK is then issued one tile further ahead, and the two take turns
// at the exponential unit.
constexpr bool scores_ahead(const Shape& shape) {
  return shape.consumers == 2 && shape.mask_bytes != 1 &&
         shape.kv_tile + shape.kv_tile / 4 + shape.v_head_dim / 2 +
                 (shape.mask_unaligned ? 48 : 40) <=
             registers_for(shape).consumer;
}

// Whether some CTAs may be persistent while others have one task (tile/scheduler.cuh). The loop of
// two consumers at D64 whose QK is not ahead loses 5% by the registers that it takes.
constexpr bool mixes_dealing(const Shape& shape) {
  return !shape.plans_tasks &&
         (shape.v_head_dim > 64 || shape.consumers != 2 || scores_ahead(shape));
}

// Instructions that do nothing in front of a consumer's loop. By where its branches lie in the
// lines of the instruction cache (128 bytes, 8 instructions) the same loop takes up to 9% more or
// less; these are the best of 0 to 7, measured with the wheel's compiler (docs/lab_notes). Every
// change to a kernel moves its loop.
constexpr int loop_padding(arch::Element element, const Shape& shape) {
  const bool fp16 = element == arch::Element::kFloat16;
  return shape.v_head_dim == 128 && shape.consumers == 2 && fp16 ? 7 : 0;
}

// The ring of attn_mask's tiles, a base of SharedMemory.
template <int kStageBytes>
struct MaskTiles {
  alignas(1024) uint8_t mask_tiles[kMaskTileStages][kStageBytes];  // tile/mask_tile.cuh
};
template <>
struct MaskTiles<0> {};

// What each warp has of O in shared memory, another base.
template <int kWarps, int kBytes>
struct Outgoing {
  alignas(128) uint8_t outgoing[kWarps][kBytes];
};
template <int kWarps>
struct Outgoing<kWarps, 0> {};

// kTransform: scores are scaled (and soft-capped) one by one, which an additive attn_mask needs,
// and a scale that is no factor (scale_is_a_factor).
template <arch::Element kElementValue, int kHeadDimValue, int kVHeadDimValue, int kConsumersValue,
          int kKvTileValue, int kBlockKeysValue, bool kTransformValue = false,
          tile::MaskType kMaskValue = tile::MaskType::kNone, bool kSharesRowsValue = false,
          bool kChainedValue = false, bool kMaskUnalignedValue = false,
          bool kPlansTasksValue = false, bool kSkipsUnseenValue = false>
struct Config {
  using Params = attention_forward::Params;

  static constexpr arch::Element kElement = kElementValue;
  static constexpr int kHeadDim = kHeadDimValue;
  static constexpr int kVHeadDim = kVHeadDimValue;
  static constexpr int kConsumers = kConsumersValue;
  static constexpr int kKvTile = kKvTileValue;
  static constexpr int kBlockKeys = kBlockKeysValue;
  static constexpr bool kTransform = kTransformValue;
  static constexpr tile::MaskType kMask = kMaskValue;
  static constexpr bool kSharesRows = kSharesRowsValue;
  static constexpr bool kChained = kChainedValue;
  static constexpr bool kMaskUnaligned = kMaskUnalignedValue;
  static constexpr bool kPlansTasks = kPlansTasksValue;
  static constexpr bool kSkipsUnseen = kSkipsUnseenValue;

  static constexpr bool kMaskTiles =
      kMask != tile::MaskType::kNone && kMask != tile::MaskType::kKeys;
  static constexpr bool kAdditive = kMaskTiles && kMask != tile::MaskType::kBool;

  // Roles: warpgroup 0 copies (warp 0 K and V, the others see to attn_mask), warpgroups 1..
  // multiply.
  static constexpr Shape kShape{
      kHeadDim,       kVHeadDim,   kConsumers,
      kKvTile,        kBlockKeys,  kMaskTiles ? mask_element_bytes(kMask) : 0,
      kMaskUnaligned, kSharesRows, kChained,
      kPlansTasks,    kSkipsUnseen};
  static constexpr int kThreads = kShape.threads();
  static constexpr int kMinBlocks = kShape.ctas_per_multiprocessor();
  static constexpr RegisterBudget kRegisters = registers_for(kShape);

  static constexpr bool kScoresAhead = scores_ahead(kShape);

  // Whether maxima may stay what they are (consumer.cuh, Maxima). Scores with a bias may well grow
  // from tile to tile, a row may see nothing of a first tile under a mask, and chains are short.
  static constexpr bool kBold = !kTransform && !kMaskTiles;

  static constexpr int kBlocks = kShape.blocks();
  static constexpr int kLoopPadding = kTransform || kMask != tile::MaskType::kNone || kBlocks > 1
                                          ? 0
                                          : loop_padding(kElement, kShape);

  static constexpr bool kMixesDealing = mixes_dealing(kShape);

  static constexpr int kQTile = kShape.q_tile();
  static constexpr int kQKColumns = kShape.qk_columns();
  static constexpr int kVColumns = kShape.v_columns();
  static constexpr int kStages = kShape.stages();
  // The ring in which attn_mask comes: kMaskParts tiles a stage, or what a mask of keys leaves.
  static constexpr bool kMasksKeys = kMask == tile::MaskType::kKeys;
  static constexpr int kMaskStages = kMaskTiles ? kMaskTileStages : kMasksKeys ? kFoundStages : 0;
  static constexpr int kMaskParts = kMaskTiles ? kConsumers : 1;
  static constexpr int kQBytes = kShape.q_bytes();
  static constexpr int kQPlaces = kShape.q_places();
  static constexpr bool kOwnPace = kQPlaces > 1;
  static constexpr int kQParts = kOwnPace ? kConsumers : 1;
  static constexpr int kKBytes = kKvTile * kQKColumns * 2;
  static constexpr int kVBytes = kKvTile * kVColumns * 2;

  static_assert(kHeadDim % 16 == 0 && kHeadDim <= 256 && kVHeadDim <= 256);
  static_assert(kKvTile % 16 == 0 && kKvTile % kBlockKeys == 0 && kBlockKeys % 16 == 0);
  static_assert(!kAdditive || kTransform, "attn_mask adds to scaled scores");
  static_assert(!kMaskUnaligned || kMaskTiles);
  static_assert(!kChained || kSharesRows);
  static_assert(!kSkipsUnseen || kChained);
  static_assert(!kSharesRows || (kOwnPace && !kMasksKeys));
  static_assert(!kOwnPace || (kQKColumns == 64 && !kMaskTiles));
  static_assert(!kPlansTasks || (kConsumers == 2 && kMask == tile::MaskType::kNone),
                "the warp that plans has nothing else to do");
  static_assert(kStages >= 3, "K of the next tile arrives while K and V of this one are read");
  static_assert(kRegisters.producer == 255 ||
                    kRegisters.producer + kConsumers * kRegisters.consumer <=
                        64 * 1024 / (kMinBlocks * kThreads) / 8 * 8 * (1 + kConsumers),
                "setmaxnreg would wait forever: a CTA has the registers that it is launched with");
  // Scores, packed weights and O of a thread, and 40 registers for the rest.
  static_assert(kKvTile / 2 + kKvTile / 4 + kVHeadDim / 2 + 32 <= kRegisters.consumer);

  // The ring carries K and V tiles alternately, in the order of their use: K0 K1 V0 K2 V1 ...
  struct SharedMemory : MaskTiles<kShape.mask_stage_bytes()>,
                        Outgoing<4 * kConsumers, kShape.outgoing_bytes()> {
    alignas(1024) uint16_t q[kQPlaces][kQBytes / 2];  // [kQKColumns / 64][kQTile][64], swizzled
    alignas(
        1024) uint16_t stages[kStages][kShape.stage_bytes() / 2];  // [columns / 64][kKvTile][64]
    tile::TileRecord<kBlocks> records[kStages];                    // where the stage holds K
    // Of a mask of keys: the tiles that it leaves, and a bit for each of their keys. Of an
    // unaligned mask: tiles to fill, and the walk that finds them.
    tile::TileRecord<kBlocks> found[kMasksKeys ? kMaskStages : kMaskUnaligned ? 2 : 1];
    alignas(16) uint32_t kept_keys[kMasksKeys ? kMaskStages : 1][kKvTile / 32];
    alignas(8) uint8_t mask_walk[kMaskUnaligned ? 160 : 1];
    int32_t task_has_tiles[kQPlaces][kQParts];
    uint32_t rounds_again;  // bit r % 32: a task of round r must be computed again, carefully
    arch::Barrier q_ready[kQPlaces][kQParts], q_free[kQPlaces][kQParts], all_tasks_done;
    arch::Barrier stage_ready[kStages], stage_free[kStages];
    arch::Barrier mask_ready[kMaskStages + 1][kMaskParts], mask_free[kMaskStages + 1][kMaskParts];
    // Producer::load
    tile::TileRecord<kBlocks> ahead[tile::TileRecord<kBlocks>::kFitsInRegisters ? 1 : 3];
    // The ring of the CTA's tasks, where they are planned; what each CTA has been given.
    int32_t plan[kPlansTasks ? kPlannedTasks : 1], plan_loads[kPlansTasks ? kPlannedCtas : 1];
    uint16_t plan_costs[kPlansTasks ? kPlannedCosts : 1];
    arch::Barrier plan_ready[kPlansTasks ? kPlannedTasks : 1];
    arch::Barrier plan_free[kPlansTasks ? kPlannedTasks : 1];
  };
  static constexpr int kSharedBytes = kShape.shared_bytes();
  static_assert(sizeof(SharedMemory) <= kSharedBytes);
  static_assert(kMinBlocks * (kSharedBytes + kSharedReservedPerCta) <= kSharedPerMultiprocessor);
};

}  // namespace bsk::sm90::attention_forward
