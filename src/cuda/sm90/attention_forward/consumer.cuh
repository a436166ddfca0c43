// The warpgroups that multiply.
#pragma once

#include "src/cuda/arch/barrier.cuh"
#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "src/cuda/arch/wgmma.cuh"
#include "src/cuda/sm90/attention_forward/config.h"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "src/cuda/tile/earlier_chain.cuh"
#include "src/cuda/tile/fragment.cuh"
#include "src/cuda/tile/key_mask.cuh"
#include "src/cuda/tile/mask.cuh"
#include "src/cuda/tile/mask_tile.cuh"
#include "src/cuda/tile/online_softmax.cuh"
#include "src/cuda/tile/products.cuh"
#include "src/cuda/tile/ring.cuh"
#include "src/cuda/tile/store_rows.cuh"

namespace bsk::sm90::attention_forward {

// Named barriers: 0 is the block's; it is the turn of consumer w when barrier 1 + w completes.
constexpr int kTurnBarrier = 1;

// Whether the rows' maxima follow the scores from tile to tile or stay what they were in the first
// tile. A bold configuration lets them stay wherever that may do (first_maxima_may_do), and
// computes the tasks in which it did not (tile::maxima_sufficed) again when all are done. kFirst:
// they are taken from this tile, the first of a chain.
enum class Maxima { kFollow, kStay, kFirst };

// One warpgroup, 64 query rows.
template <class Config>
struct Consumer {
  using SharedMemory = typename Config::SharedMemory;
  using Record = tile::TileRecord<Config::kBlocks>;
  static constexpr int kScores = Config::kKvTile / 2;  // registers
  static constexpr int kGroups = kScores / 4;          // of 8 columns
  static constexpr int kOutputs = Config::kVHeadDim / 2;
  static constexpr int kNoStage = -1;

  SharedMemory& shared;
  const Params& params;
  const int warpgroup;  // 0 .. kConsumers - 1
  tile::RingPosition<Config::kStages> ring;
  tile::RingPosition<Config::kMaskStages> mask_ring;
  tile::RingPosition<Config::kQPlaces> q_at;
  int mask_places[tile::kRowsPerThread] = {};  // of an unaligned mask: where the thread's rows lie

  __device__ __forceinline__ int wait_stage() { return tile::wait_stage(shared.stage_ready, ring); }
  __device__ __forceinline__ void arrive_once_per_warp(arch::Barrier& barrier) {
    if (tile::lane_index() == 0) arch::barrier_arrive(barrier);
  }
  // Of the loop with QK ahead, which a branch may cost its uniform registers, and so a tenth of its
  // time (ptxas; without one other loops spill, or have their products serialised).
  __device__ __forceinline__ void free_stage_ahead(int stage) {
    arch::barrier_arrive_if(shared.stage_free[stage], tile::lane_index() == 0);
  }

  __device__ __forceinline__ int q_part() const { return Config::kOwnPace ? warpgroup : 0; }
  __device__ __forceinline__ void free_q() {
    arch::Barrier& free = shared.q_free[q_at.stage][q_part()];
    if constexpr (Config::kScoresAhead && !Config::kTransform) {
      arch::barrier_arrive_if(free, tile::lane_index() == 0);
    } else {
      arrive_once_per_warp(free);
    }
  }

  __device__ __forceinline__ float scale_log2() const {
    return Config::kTransform ? 1.0f : params.scale_log2;
  }

  // The maxima of this tile; true where O must be corrected.
  __device__ __forceinline__ bool find_maxima(float (&s)[kScores], tile::SoftmaxRows& rows,
                                              float (&correction)[tile::kRowsPerThread],
                                              Maxima maxima) {
    if constexpr (Config::kAdditive) {
      return tile::follow_maxima<Config::kElement, kGroups>(s, rows, correction);
    }
    if (maxima == Maxima::kFirst) tile::first_maxima<kGroups>(s, params.scale_log2, rows);
    if (maxima != Maxima::kFollow) return false;
    return tile::update_maxima<Config::kElement, kGroups>(s, scale_log2(), rows, correction);
  }
  // Scores of column groups [kBegin, kEnd) to weights.
  template <int kBegin, int kEnd>
  __device__ __forceinline__ void weigh(float (&s)[kScores], const tile::SoftmaxRows& rows,
                                        tile::TileSums& sums) {
    if constexpr (Config::kAdditive) {
      tile::exponentiate_followed<kBegin, kEnd, kGroups>(s, sums);
    } else {
      tile::exponentiate<kBegin, kEnd, kGroups>(s, scale_log2(), rows, sums);
    }
  }

  // Two consumers take turns: one at a time has the exponential unit to itself while the other is
  // at its products. `kPlace` tells the places in the code apart that it is waited at.
  template <int kPlace>
  __device__ __forceinline__ void wait_turn() {
    if constexpr (Config::kScoresAhead) {
      arch::named_barrier_sync<kPlace>(kTurnBarrier + warpgroup, 2 * arch::kWarpgroupThreads);
    }
  }
  // When `after` is computed.
  __device__ __forceinline__ void pass_turn(float after) {
    if constexpr (Config::kScoresAhead) {
      arch::named_barrier_arrive_after(kTurnBarrier + (1 - warpgroup), 2 * arch::kWarpgroupThreads,
                                       after);
    }
  }

  __device__ __forceinline__ void issue_qk(float (&s)[kScores], int stage) {
    tile::issue_qk<Config::kElement, Config::kHeadDim, Config::kQTile, Config::kKvTile>(
        s, shared.q[q_at.stage] + warpgroup * 64 * arch::kSwizzleElements, shared.stages[stage]);
  }
  __device__ __forceinline__ void issue_pv(float (&o)[kOutputs], const uint32_t (&p)[kScores / 2],
                                           int stage, bool accumulate = true) {
    tile::issue_pv<Config::kElement, Config::kVHeadDim, Config::kKvTile>(o, p, shared.stages[stage],
                                                                         accumulate);
  }
  static __device__ __forceinline__ void clear(float (&o)[kOutputs]) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) o[i] = 0.0f;
  }

  // What a mask of keys removes.
  __device__ __forceinline__ void hide_keys(float (&s)[kScores], uint32_t flags) {
    if (flags & Record::kHidesKeys) {
      tile::remove_keys<Config::kKvTile>(s, shared.kept_keys[mask_ring.stage]);
    }
  }

  // The warp has read what the stage of attn_mask has for it.
  __device__ __forceinline__ void free_mask_stage(int part) {
    arch::sync_warp();
    arrive_once_per_warp(shared.mask_free[mask_ring.stage][part]);
    mask_ring.advance();
  }

  // What is done to scores before the softmax.
  __device__ __forceinline__ void mask(float (&s)[kScores], const tile::SoftmaxRows& rows,
                                       uint32_t flags, int k_stage, const Coordinates& at) {
    float factor = 1.0f;
    if constexpr (Config::kAdditive) {
      factor = tile::cap_scores(s, params.transform);
    } else if constexpr (Config::kTransform) {
      tile::transform_scores(s, params.transform);
    }
    if constexpr (Config::kMaskTiles) {
      arch::barrier_wait(shared.mask_ready[mask_ring.stage][warpgroup], mask_ring.parity);
      const float subtract[] = {tile::subtracted(rows, 0), tile::subtracted(rows, 1)};
      if constexpr (Config::kMaskUnaligned) {
        tile::apply_unaligned_mask_tile<Config>(s, shared.mask_tiles[mask_ring.stage], warpgroup,
                                                mask_places, factor, subtract);
      } else {
        tile::apply_mask_tile<Config>(s, shared.mask_tiles[mask_ring.stage], warpgroup,
                                      params.mask.row_stride == 0 ? 0 : 1, factor, subtract);
      }
      free_mask_stage(warpgroup);
    }
    if constexpr (Config::kMasksKeys) {
      hide_keys(s, flags);
      free_mask_stage(0);
    }
    remove_pairs(s, flags, k_stage, at);
  }

  // What rules of position and block bits remove.
  __device__ __forceinline__ void remove_pairs(float (&s)[kScores], uint32_t flags, int k_stage,
                                               const Coordinates& at) {
    if (flags >> warpgroup & 1) {
      const int first_row = first_row_of<Config>(at, warpgroup) + tile::fragment_row();
      tile::remove_pairs<Config::kBlockKeys, Config::kBlocks>(
          s, shared.records[k_stage], params.visibility, first_row,
          first_row & (params.lists.block_q - 1), params.lists.block_k);
      arch::sync_warp();  // every lane has read the record, which lane 0 will release
    }
  }

  __device__ __forceinline__ void store(const float (&o)[kOutputs], const tile::SoftmaxRows& rows,
                                        const Coordinates& at) {
    float factor[tile::kRowsPerThread];
    const int first_row = first_row_of<Config>(at, warpgroup);
#pragma unroll
    for (int r = 0; r < tile::kRowsPerThread; ++r) {
      factor[r] = rows.sum[r] == 0.0f ? 0.0f : arch::reciprocal(rows.sum[r]);
      const int row = first_row + tile::fragment_row() + 8 * r;
      if (params.lse != nullptr && tile::lane_index() % 4 == 0 && row < params.q_len) {
        params.lse[(static_cast<int64_t>(at.batch) * params.q_heads.value + at.q_head) *
                       params.q_len +
                   row] = tile::log_sum_exp(rows.maximum[r], rows.sum[r]);
      }
    }
    uint16_t* const out = static_cast<uint16_t*>(params.out) + at.batch * params.out_batch_stride +
                          at.q_head * params.out_head_stride + first_row * params.out_row_stride;
    if constexpr (Config::kShape.outgoing_bytes() > 0) {
      tile::store_rows_staged<Config::kElement>(o, factor, outgoing(), out, params.out_row_stride,
                                                params.q_len - first_row, params.v_head_dim);
    } else {
      tile::store_rows<Config::kElement>(o, factor, out, params.out_row_stride,
                                         params.q_len - first_row, params.v_head_dim);
    }
  }

  // The warp's room for O.
  __device__ __forceinline__ uint8_t* outgoing() const {
    return shared.outgoing[tile::warp_index() - 4];
  }

  using EarlierChain = tile::EarlierChain<kOutputs>;

  // Where the loop over the keys of a task is.
  struct Progress {
    int k_stage, v_stage;  // of this tile's K and of the V of the product under way
    uint32_t flags;        // of this tile
    bool k_is_ready;       // of the next tile, as far as is known (step_ahead)
  };

  // Whether rows of this consumer see something of the tile, of keys in chains.
  __device__ __forceinline__ bool sees(uint32_t flags) const {
    return flags & (Record::kSees << warpgroup);
  }
  // From a tile whose K is there to the first from it on that this consumer sees, whose K is there
  // then, or else to the end of the task. (That compute_chains does not leave early where there is
  // none is for ptxas, which would doubt that lanes agree, and spill.)
  __device__ __forceinline__ void pass_over_unseen(Progress& progress) {
    bool more = true;
    while (more && !sees(progress.flags)) {
      const int k_stage = progress.k_stage;
      more = progress.flags & Record::kHasNext;
      if (more) {
        progress.k_stage = wait_stage();
        progress.flags = shared.records[progress.k_stage].flags;
      }
      const int v_stage = wait_stage();
      arch::sync_warp();  // every lane has read the flags, and has waited
      arrive_once_per_warp(shared.stage_free[k_stage]);
      arrive_once_per_warp(shared.stage_free[v_stage]);
    }
  }

  // QK of the first tile, of chains the first that this consumer sees.
  __device__ __forceinline__ Progress start(float (&s)[kScores]) {
    const int k_stage = wait_stage();
    Progress progress{k_stage, kNoStage, shared.records[k_stage].flags, false};
    if constexpr (Config::kSkipsUnseen) pass_over_unseen(progress);
    issue_qk(s, progress.k_stage);
    arch::mma_wait<0>();
    return progress;
  }

  // One tile of keys, whose scores are in `s`: QK of the next tile is issued before PV of this one.
  // False after the last tile, whose PV is not issued yet. Where a chain begins with this tile, O
  // begins with its PV, and `earlier` takes over the chain before.
  template <Maxima kMaxima>
  __device__ __forceinline__ bool step(float (&s)[kScores], uint32_t (&p)[kScores / 2],
                                       float (&o)[kOutputs], tile::SoftmaxRows& rows,
                                       Progress& progress, const Coordinates& at,
                                       EarlierChain* earlier = nullptr, bool stay = false) {
    const uint32_t flags = progress.flags;
    arch::mma_fence_registers(s);
    mask(s, rows, flags, progress.k_stage, at);
    const bool chain_ended = kMaxima == Maxima::kFirst && progress.v_stage != kNoStage;
    if (chain_ended) earlier->park(rows);
    float correction[tile::kRowsPerThread];
    const bool grown = find_maxima(s, rows, correction, stay ? Maxima::kStay : kMaxima);
    tile::TileSums sums;
    this->template weigh<0, kGroups>(s, rows, sums);
    sums.add_to(rows);
    // K is released here, late, to keep the exponentials in front of the waits below: ptxas moves
    // arithmetic across barriers and branches, and only a data dependency holds it.
    arrive_once_per_warp(
        shared.stage_free[arch::order_after(progress.k_stage, rows.sum[0] + rows.sum[1])]);
    bool more = flags & Record::kHasNext;
    // When the next tile's flags are read makes a tenth of the time (measured; the reason is
    // ptxas).
    constexpr bool kFlagsEarly = Config::kConsumers == 3;
    if (more) {
      progress.k_stage = wait_stage();
      if constexpr (kFlagsEarly) progress.flags = shared.records[progress.k_stage].flags;
    }
    // P V of the tile before is in O, its V's stage is free, and this tile's weights take its
    // place as the operand of the next product.
    arch::mma_wait<0>();
    arch::mma_fence_registers(o);
    arch::mma_fence_registers(s);
    if (progress.v_stage != kNoStage) arrive_once_per_warp(shared.stage_free[progress.v_stage]);
    if (chain_ended) earlier->park(o);
    if (grown) tile::rescale(o, correction);
    tile::pack_weights<Config::kElement>(s, p);
    if constexpr (Config::kSkipsUnseen) more = flags & (Record::kSeesLater << warpgroup);
    if (!more) return false;
    auto v_at = ring;
    if constexpr (Config::kSkipsUnseen) {
      ring.advance();
      if (!sees(progress.flags)) {
        // What a consumer sees is consecutive: it has no more of this chain. V of this tile waits
        // in the ring while up to two others pass.
        static_assert(Config::kStages >= 5);
        pass_over_unseen(progress);
        progress.flags |= Record::kChainBegins;
      }
    }
    issue_qk(s, progress.k_stage);
    if constexpr (Config::kSkipsUnseen) {
      progress.v_stage = tile::wait_stage(shared.stage_ready, v_at);
    } else {
      progress.v_stage = wait_stage();
    }
    issue_pv(o, p, progress.v_stage, kMaxima != Maxima::kFirst);
    if constexpr (!kFlagsEarly) progress.flags = shared.records[progress.k_stage].flags;
    arch::mma_wait<1>();
    return true;
  }

  // Whether the maxima of this first tile may do for the later ones. One key of it says little
  // about a row's maximum, but bf16 leaves much room. A mask of keys leaves one of a whole tile.
  __device__ __forceinline__ bool first_maxima_may_do(uint32_t flags) const {
    constexpr bool kOneKeyDoes =
        Config::kElement == arch::Element::kBFloat16 && !Config::kMasksKeys;
    const uint32_t whole = ~flags, seen = flags / Record::kEveryRowSees;
    return ((kOneKeyDoes ? seen : whole) >> warpgroup & 1) != 0;
  }

  // The maxima that stay, of the first tile.
  __device__ __forceinline__ void take_first_maxima(float (&s)[kScores], tile::SoftmaxRows& rows,
                                                    const Progress& progress,
                                                    const Coordinates& at) {
    arch::mma_fence_registers(s);
    if constexpr (Config::kMasksKeys) hide_keys(s, progress.flags);
    remove_pairs(s, progress.flags, progress.k_stage, at);
    tile::take_maxima<kGroups>(s, params.scale_log2, rows);
  }

  // One tile of queries against all its keys. Leaves O and the rows; sums are not finished. Tells
  // what the maxima did.
  __device__ __forceinline__ Maxima compute(float (&o)[kOutputs], tile::SoftmaxRows& rows,
                                            bool bold, const Coordinates& at) {
    float s[kScores];
    uint32_t p[kScores / 2];
    Progress progress = start(s);
    const Maxima maxima =
        bold && first_maxima_may_do(progress.flags) ? Maxima::kStay : Maxima::kFollow;
    if (Config::kBold && maxima == Maxima::kStay) {
      take_first_maxima(s, rows, progress, at);
      while (this->template step<Maxima::kStay>(s, p, o, rows, progress, at)) {
      }
    } else {
      while (this->template step<Maxima::kFollow>(s, p, o, rows, progress, at)) {
      }
    }
    free_q();
    finish_products(o, p, true);
    return maxima;
  }

  // PV of the last tile.
  __device__ __forceinline__ void finish_products(float (&o)[kOutputs],
                                                  const uint32_t (&p)[kScores / 2],
                                                  bool accumulate) {
    const int v_stage = wait_stage();
    issue_pv(o, p, v_stage, accumulate);
    arch::mma_wait<0>();
    arch::mma_fence_registers(o);
    arrive_once_per_warp(shared.stage_free[v_stage]);
  }

  // The same of keys in chains. Sums are finished. True where maxima stayed that should not have.
  __device__ __forceinline__ bool compute_chains(float (&o)[kOutputs], tile::SoftmaxRows& rows,
                                                 bool bold, const Coordinates& at) {
    float s[kScores];
    uint32_t p[kScores / 2];
    static_assert(Config::kShape.outgoing_bytes() ==
                  4 * arch::kWarpThreads * EarlierChain::kFloats);
    EarlierChain earlier{reinterpret_cast<float*>(outgoing())};
    Progress progress = start(s);
    bool again = false, more, one;  // tile in the chain
    do {
      const bool stay = bold && first_maxima_may_do(progress.flags);
      one = true;
      more = this->template step<Maxima::kFirst>(s, p, o, rows, progress, at, &earlier);
      while (more && !(progress.flags & Record::kChainBegins)) {
        more = this->template step<Maxima::kFollow>(s, p, o, rows, progress, at, nullptr, stay);
        one = false;
      }
      again |= stay && !tile::maxima_sufficed<Config::kElement>(rows);
    } while (more);
    free_q();
    // A branch for each: ptxas would otherwise serialise the products before.
    if (one) {
      finish_products(o, p, false);
    } else {
      finish_products(o, p, true);
    }
    if constexpr (Config::kSkipsUnseen) pass_over_unseen(progress);
    earlier.finish(o, rows);
    return again;
  }

  // The tile whose scores are in `s`, with QK issued one tile further ahead, which takes a second
  // set of scores: no product is waited for that has just been issued. The scores of the next tile,
  // if there is one, arrive in `s_next`. (No branch stands between a product's issue and its wait:
  // ptxas would serialise them.) A warpgroup's time is that of this one chain of instructions:
  // where they stand was chosen by measurement (docs/lab_notes), so that what takes long to answer
  // does so behind exponentials.
  template <bool kMore>
  __device__ __forceinline__ void step_ahead(float (&s)[kScores], float (&s_next)[kScores],
                                             uint32_t (&p)[kScores / 2], float (&o)[kOutputs],
                                             tile::SoftmaxRows& rows, Progress& progress,
                                             Maxima maxima, const Coordinates& at) {
    const uint32_t flags = progress.flags;
    const int k_stage = progress.k_stage, v_stage_before = progress.v_stage;
    if constexpr (kMore) {
      progress.k_stage = tile::wait_stage_unless(progress.k_is_ready, shared.stage_ready, ring);
      issue_qk(s_next, progress.k_stage);
      if constexpr (!Config::kMasksKeys) {  // which leaves no register for that
        auto after = ring;                  // V of this tile is at `ring`
        after.advance();
        progress.k_is_ready = arch::barrier_test(shared.stage_ready[after.stage], after.parity);
      }
    } else {
      free_q();
    }
    arch::mma_fence_registers(s);
    mask(s, rows, flags, k_stage, at);
    float correction[tile::kRowsPerThread];
    bool grown = false;
    // The turn is waited for in front of a branch's end, across which ptxas moves no exponentials.
    if (Config::kAdditive || maxima == Maxima::kFollow) {
      grown = find_maxima(s, rows, correction, maxima);
      wait_turn<0>();
    } else {
      wait_turn<1>();
    }
    constexpr int kInTurn = kGroups * 3 / 4;
    tile::TileSums sums;
    weigh<0, kInTurn>(s, rows, sums);
    const float weighed = sums.all();
    pass_turn(weighed);
    arch::barrier_arrive_after(shared.stage_free[k_stage], tile::lane_index() == 0, weighed);
    arch::mma_wait<kMore ? 1 : 0>();
    arch::mma_fence_registers(o);
    if constexpr (kMore) progress.flags = shared.records[progress.k_stage].flags;
    if (grown) tile::rescale(o, correction);
    // The last exponentials beside the packing of the first.
    progress.v_stage = wait_stage();
    weigh<kInTurn, kGroups>(s, rows, sums);
    sums.add_to(rows);
    tile::pack_weights<Config::kElement>(s, p);
    issue_pv(o, p, progress.v_stage);
    if (v_stage_before != kNoStage) free_stage_ahead(v_stage_before);
    arch::mma_wait<kMore ? 1 : 0>();
  }

  __device__ __forceinline__ Maxima compute_ahead(float (&o)[kOutputs], tile::SoftmaxRows& rows,
                                                  bool bold, const Coordinates& at) {
    float s[2][kScores];
    uint32_t p[kScores / 2];
    Progress progress = start(s[0]);
    const Maxima later =
        bold && first_maxima_may_do(progress.flags) ? Maxima::kStay : Maxima::kFollow;
    // Tiles of several blocks have no registers for that: the first one's maxima follow it.
    constexpr bool kTakesFirst = Config::kBold && Config::kBlocks == 1;
    if (kTakesFirst && later == Maxima::kStay) take_first_maxima(s[0], rows, progress, at);
    Maxima maxima = kTakesFirst ? later : Maxima::kFollow;
    for (;;) {
      if (!(progress.flags & Record::kHasNext)) {
        this->template step_ahead<false>(s[0], s[1], p, o, rows, progress, maxima, at);
        break;
      }
      this->template step_ahead<true>(s[0], s[1], p, o, rows, progress, maxima, at);
      maxima = later;
      if (!(progress.flags & Record::kHasNext)) {
        this->template step_ahead<false>(s[1], s[0], p, o, rows, progress, maxima, at);
        break;
      }
      this->template step_ahead<true>(s[1], s[0], p, o, rows, progress, maxima, at);
    }
    arch::mma_fence_registers(o);
    free_stage_ahead(progress.v_stage);
    return maxima;
  }

  // A task in which this consumer has no rows.
  __device__ __forceinline__ void pass_over_task() {
    const bool any = shared.task_has_tiles[q_at.stage][q_part()];
    arch::sync_warp();  // every lane has read the flag
    free_q();
    q_at.advance();
    if (!any) return;
    bool more = pass_over_stage();
    while (more) {
      more = pass_over_stage();
      pass_over_stage();
    }
    pass_over_stage();
  }
  // Whether a tile follows, if the stage holds K.
  __device__ __forceinline__ bool pass_over_stage() {
    const int stage = wait_stage();
    const uint32_t flags = shared.records[stage].flags;
    arch::sync_warp();
    arrive_once_per_warp(shared.stage_free[stage]);
    return flags & Record::kHasNext;
  }

  // The tasks of this round must be computed again.
  __device__ __forceinline__ void mark(int round) {
    arch::atomic_or(shared.rounds_again, 1u << round % 32);
  }

  __device__ __forceinline__ void compute_task(int task, int round, bool bold) {
    const Coordinates at = coordinates_of<Config>(params, task);
    float o[kOutputs];
    if constexpr (!Config::kChained) clear(o);
    tile::SoftmaxRows rows;
    rows.reset();
    if constexpr (Config::kMaskUnaligned) {
      tile::find_mask_places<Config>(params.mask, at.batch, at.q_head,
                                     at.first_row + 64 * warpgroup, mask_places);
    }
    arch::barrier_wait(shared.q_ready[q_at.stage][q_part()], q_at.parity);
    if constexpr (!Config::kOwnPace) q_at.advance();
    if (!has_rows<Config>(at, warpgroup)) return pass_over_task();
    Maxima maxima = Maxima::kFollow;
    bool again = false;  // of chains
    if (shared.task_has_tiles[q_at.stage][q_part()]) {
      if constexpr (Config::kChained) {
        again = compute_chains(o, rows, bold, at);
      } else if constexpr (Config::kScoresAhead) {
        maxima = compute_ahead(o, rows, bold, at);
      } else {
        maxima = compute(o, rows, bold, at);
      }
    } else {
      arch::sync_warp();  // every lane has read the flag
      free_q();
      if constexpr (Config::kChained) clear(o);
      if constexpr (Config::kMasksKeys) free_mask_stage(0);
    }
    if constexpr (Config::kOwnPace) q_at.advance();
    if constexpr (Config::kChained) {
      if (arch::warp_any(again) && tile::lane_index() == 0) mark(round);
    } else {
      if (maxima == Maxima::kStay &&
          arch::warp_any(!tile::maxima_sufficed<Config::kElement>(rows)) &&
          tile::lane_index() == 0) {
        mark(round);
      }
      tile::finish_sums(rows);
    }
    store(o, rows, at);
  }

  __device__ __forceinline__ void run() {
    arch::do_nothing<Config::kLoopPadding>();
    if (warpgroup == 1) pass_turn(0.0f);  // the first turn is warpgroup 0's
    uint32_t rounds = kEveryRound;
    TaskReader<Config, /*kIsWarp=*/true> tasks{shared, params};
    for (bool bold = Config::kBold; rounds != 0; bold = false) {
      tasks.for_each(rounds, [&](int task, int round) { compute_task(task, round, bold); });
      if (!bold) break;
      arrive_once_per_warp(shared.all_tasks_done);
      arch::barrier_wait(shared.all_tasks_done, 0);
      rounds = shared.rounds_again;
    }
    if (warpgroup == 0) wait_turn<2>();  // the last pass leaves no barrier half full
  }
};

}  // namespace bsk::sm90::attention_forward
