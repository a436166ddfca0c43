// The throughput kernel's own source, emulated, against the fp64 reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "src/cuda/sm90/attention_forward/launch.h"
#include "src/cuda/sm90/attention_forward/task_plan.cuh"
#include "src/cuda/sm90/attention_forward/tile_walk.cuh"
#include "tests/cuda/emulated_attention.h"
#include "tests/cuda/sm90/attention_forward_cases.h"

namespace bsk::sm90::attention_forward {
namespace {

using test::Case;
using test::emulated_gpu;

void run(const Case& c, const test::Tensors& tensors, emulation::Timing timing) {
  const AttentionProblem& problem = tensors.problem;
  const DeviceProperties device = emulated_gpu(c.multiprocessors);
  const auto reasons_against = reasons(problem, device);
  ASSERT_TRUE(reasons_against.empty()) << reasons_against[0];
  const AttentionPlan made = make_plan(problem, device);
  const ConfigChoice choice = choose_config(problem, c.multiprocessors);
  test::launch_emulated(choice.type_name(), make_params(problem, tensors.buffers, choice, made),
                        tensor_map_specs(problem, choice), tensors, made, timing);
}

// The tiles of queries in the order of their CTAs and, within one, of their rounds.
template <class Config>
std::vector<Coordinates> tasks_of(const AttentionProblem& problem, int multiprocessors) {
  const DeviceProperties device = emulated_gpu(multiprocessors);
  const AttentionPlan made = make_plan(problem, device);
  const Params params = make_params(problem, {}, choose_config(problem, multiprocessors), made);
  std::vector<Coordinates> found;
  emulation::machine().launch(static_cast<int>(made.tasks), arch::kWarpThreads, 0,
                              emulation::kTimings[0], [&] {
                                if (arch::thread_index() > 0) return;
                                for_each_task<Config>(params, kEveryRound, [&](int number, int) {
                                  found.push_back(coordinates_of<Config>(params, number));
                                });
                              });
  return found;
}
using D128 = Config<arch::Element::kBFloat16, 128, 128, 2, 128, 128>;
using D64 =
    Config<arch::Element::kBFloat16, 64, 64, 3, 128, 128, false, tile::MaskType::kNone, true>;

TEST(Schedule, ComputesEveryTaskOnce) {
  for (const int64_t q_len : {100, 2048, 5000}) {
    for (const int64_t heads : {1, 5, 7}) {
      for (const Causal causal : {Causal::kNone, Causal::kLowerRight}) {
        // So many keys that a group has three heads.
        AttentionProblem problem =
            dense_problem(DataType::kBFloat16, 2, heads, heads, q_len, 16384, 128, 128);
        problem.causal = causal;
        const int64_t q_tiles = (q_len + 127) / 128;
        for (const int multiprocessors : {1, 7, 132}) {
          std::vector<int> computed(static_cast<size_t>(2 * heads * q_tiles));
          for (const Coordinates& at : tasks_of<D128>(problem, multiprocessors)) {
            ASSERT_EQ(at.first_row % 128, 0);
            ++computed.at(
                static_cast<size_t>((at.batch * heads + at.q_head) * q_tiles + at.first_row / 128));
          }
          for (const int times : computed) ASSERT_EQ(times, 1);
        }
      }
    }
  }
}

// The tasks of each CTA, in their order, where lists of `counts` blocks, those of a head side
// by side, are planned on the device.
std::vector<std::vector<int>> planned_tasks(const std::vector<int32_t>& counts, int64_t heads,
                                            int multiprocessors) {
  using Planned = Config<arch::Element::kBFloat16, 128, 128, 2, 128, 128, false,
                         tile::MaskType::kNone, false, false, false, true>;
  using SharedMemory = Planned::SharedMemory;
  const auto q_tiles = static_cast<int64_t>(counts.size()) / heads;
  AttentionProblem problem =
      dense_problem(DataType::kBFloat16, 1, heads, heads, 128 * q_tiles, 16384, 128, 128);
  problem.block_mask = {true, 128, 128, 1, heads, q_tiles, 128, 0};
  AttentionBuffers buffers;
  buffers.block_mask.full_counts = counts.data();
  const AttentionPlan made = make_plan(problem, emulated_gpu(multiprocessors));
  const ConfigChoice choice = choose_config(problem, multiprocessors);
  EXPECT_TRUE(choice.shape.plans_tasks);
  const Params params = make_params(problem, buffers, choice, made);
  std::vector<std::vector<int>> tasks(static_cast<size_t>(made.tasks));
  emulation::machine().launch(static_cast<int>(made.tasks), 2 * arch::kWarpThreads,
                              sizeof(SharedMemory), emulation::kTimings[0], [&] {
                                SharedMemory& shared =
                                    *static_cast<SharedMemory*>(arch::shared_memory());
                                if (arch::thread_index() == 0) {
                                  for (int task = 0; task < kPlannedTasks; ++task) {
                                    arch::barrier_init(shared.plan_ready[task], 1);
                                    arch::barrier_init(shared.plan_free[task], 1);
                                  }
                                  arch::barrier_init(shared.all_tasks_done, 1);
                                  shared.rounds_again = 0;
                                }
                                arch::sync_block();
                                if (arch::thread_index() == 0) {
                                  TaskReader<Planned, /*kIsWarp=*/false> reader{shared, params};
                                  reader.for_each(kEveryRound, [&](int task, int) {
                                    tasks[static_cast<size_t>(arch::block_index())].push_back(task);
                                  });
                                  arch::barrier_arrive(shared.all_tasks_done);
                                } else if (arch::thread_index() >= arch::kWarpThreads) {
                                  TaskPlanner<Planned>{shared, params}.run();
                                }
                              });
  return tasks;
}

// What the CTA with most to do has, as a multiple of what each would have if all had as much; every
// task is some CTA's.
double imbalance(const std::vector<int32_t>& counts, int64_t heads, int multiprocessors) {
  constexpr int kSeam = 2;
  std::vector<int> times(counts.size());
  double most = 0.0, all = 0.0;
  const auto tasks = planned_tasks(counts, heads, multiprocessors);
  for (const std::vector<int>& of_cta : tasks) {
    double cost = 0.0;
    for (const int task : of_cta) {
      ++times.at(static_cast<size_t>(task));
      cost += counts[static_cast<size_t>(task)] + kSeam;
    }
    most = std::max(most, cost);
    all += cost;
  }
  for (const int n : times) EXPECT_EQ(n, 1);
  return most / (all / static_cast<double>(tasks.size()));
}

TEST(TaskPlanner, GivesEveryNthOfEqualLists) {
  const auto tasks = planned_tasks(std::vector<int32_t>(1000, 8), 8, 132);
  for (int cta = 0; cta < 132; ++cta) {
    std::vector<int> expected;
    for (int task = cta; task < 1000; task += 132) expected.push_back(task);
    ASSERT_EQ(tasks[static_cast<size_t>(cta)], expected);
  }
}

TEST(TaskPlanner, EvensOutSkewedLists) {
  std::mt19937 random(1);
  const auto lists = [](size_t tasks, const auto& length) {
    std::vector<int32_t> counts(tasks);
    for (size_t i = 0; i < tasks; ++i) counts[i] = length(static_cast<int>(i));
    return counts;
  };
  const auto check = [&](const std::vector<int32_t>& counts, double bound) {
    EXPECT_LT(imbalance(counts, 16, 132), bound);
  };
  // As evenly as CTAs that took their tasks from a counter (every n-th: 2.59, 1.24, 1.09, 1.50).
  check(lists(2048, [&](int) { return random() % 10 == 0 ? 96 : 6; }), 1.35);
  check(lists(2048, [&](int) { return static_cast<int>(random() % 64) + 1; }), 1.15);
  check(lists(2048, [](int i) { return 1 + i / 128 * 4; }), 1.06);    // by head
  check(lists(2048, [](int i) { return 1 + i % 128 / 4; }), 1.1);     // growing in a head
  check(lists(2048, [](int i) { return i == 100 ? 128 : 0; }), 4.5);  // 130 of 29.0 on average
  check(lists(16 * 9, [](int) { return 0; }), 2.0);                   // a round and a bit
}

// The last tasks are short: those of the longest tiles of the last group are long begun.
TEST(Schedule, EndsWithAWholeGroupOfHeads) {
  AttentionProblem problem = dense_problem(DataType::kBFloat16, 1, 16, 16, 16384, 16384, 128, 128);
  problem.causal = Causal::kLowerRight;
  const std::vector<Coordinates> tasks = tasks_of<D128>(problem, 132);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(tasks[tasks.size() - 1 - i].first_row, 0);
  EXPECT_EQ(make_plan(problem, emulated_gpu(132)).dealt, 2048 - 8 * 132);
}

// Two rounds in alternating direction even out what a causal mask makes of lengths; three do not.
TEST(Schedule, DealsOutWhatPersistentCtasWouldNotEvenOut) {
  const auto plan_of = [](int64_t heads, int64_t q_len) {
    AttentionProblem problem =
        dense_problem(DataType::kBFloat16, 1, heads, heads, q_len, q_len, 128, 128);
    problem.causal = Causal::kLowerRight;
    return make_plan(problem, emulated_gpu(132));
  };
  EXPECT_EQ(plan_of(16, 2048).dealt, 0);
  EXPECT_EQ(plan_of(16, 2048).tasks, 132);
  EXPECT_GT(plan_of(24, 2048).tasks, 132);
  EXPECT_GT(plan_of(16, 8192).dealt, 0);
}

TEST(Schedule, SaysThatRowsAreSharedOut) {
  const AttentionProblem problem = dense_problem(DataType::kFloat16, 16, 12, 12, 512, 512, 64, 64);
  AttentionPlan plan = make_plan(problem, emulated_gpu(132));
  EXPECT_NE(
      to_string(plan).find(": 128 CTAs with up to 12 tiles of 64 query rows, in tasks of 192"),
      std::string::npos)
      << to_string(plan);
}

TEST(Schedule, SharesEveryRowTileOutOnce) {
  int shared = 0;
  for (const int64_t q_len : {64, 200, 577, 1024, 1500}) {
    for (const int64_t heads : {1, 4, 12, 50}) {
      for (const Causal causal : {Causal::kNone, Causal::kLowerRight}) {
        AttentionProblem problem =
            dense_problem(DataType::kBFloat16, 2, heads, heads, q_len, 1024, 64, 64);
        problem.causal = causal;
        for (const int multiprocessors : {1, 7, 132}) {
          const int64_t share = make_plan(problem, emulated_gpu(multiprocessors)).row_tiles;
          if (share == 0) continue;
          ++shared;
          const int64_t of_head = (q_len + 63) / 64;
          std::vector<int> computed(static_cast<size_t>(2 * heads * of_head));
          std::vector<int64_t> of_consumer(3);
          for (const Coordinates& at : tasks_of<D64>(problem, multiprocessors)) {
            for (int consumer = 0; consumer < 3; ++consumer) {
              if (!has_rows<D64>(at, consumer)) continue;
              const int64_t row = first_row_of<D64>(at, consumer);
              ASSERT_LT(row, q_len);
              ASSERT_LE(row, at.last_row);
              ++computed.at(
                  static_cast<size_t>((at.batch * heads + at.q_head) * of_head + row / 64));
              ++of_consumer[static_cast<size_t>(consumer)];
            }
          }
          for (const int times : computed) ASSERT_EQ(times, 1);
          const auto [least, most] = std::minmax_element(of_consumer.begin(), of_consumer.end());
          EXPECT_LE(*most - *least, 1);
        }
      }
    }
  }
  EXPECT_GT(shared, 10);
}

// Under every timing.
class Emulated : public ::testing::TestWithParam<Case> {};

TEST_P(Emulated, MatchesTheReference) {
  for (const emulation::Timing timing : emulation::kTimings) {
    test::Tensors tensors(GetParam());
    run(GetParam(), tensors, timing);
    if (HasFatalFailure()) return;
    test::expect_matches(GetParam(), tensors);
  }
}

INSTANTIATE_TEST_SUITE_P(Smoke, Emulated, ::testing::ValuesIn(smoke_cases()),
                         [](const auto& info) { return info.param.name; });

// The timing changes from case to case.
class EmulatedEdge : public ::testing::TestWithParam<Case> {};

TEST_P(EmulatedEdge, MatchesTheReference) {
  const size_t timing = GetParam().name.size() % std::size(emulation::kTimings);
  test::Tensors tensors(GetParam());
  run(GetParam(), tensors, emulation::kTimings[timing]);
  if (HasFatalFailure()) return;
  test::expect_matches(GetParam(), tensors);
}

INSTANTIATE_TEST_SUITE_P(Edge, EmulatedEdge, ::testing::ValuesIn(edge_cases()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(MisalignedMask, EmulatedEdge, ::testing::ValuesIn(misaligned_masks()),
                         [](const auto& info) { return info.param.name; });

// A row's bits depend neither on what shares the batch nor on which CTA computes it, nor on whether
// another row of its tile makes the tile be computed again.
class EmulatedBits : public ::testing::TestWithParam<Case> {};

TEST_P(EmulatedBits, AreTheSameInAnyBatchAndGrid) {
  const Case& together = GetParam();
  Case other_grid = together;
  other_grid.multiprocessors = 5;
  test::Tensors a(together), b(together), alone(together);
  run(together, a, emulation::kTimings[0]);
  run(other_grid, b, emulation::kTimings[2]);
  EXPECT_EQ(a.output(), b.output());
  for (TensorLayout* tensor : {&alone.problem.q, &alone.problem.k, &alone.problem.v,
                               &alone.problem.out, &alone.problem.mask}) {
    tensor->shape[0] = 1;
  }
  run(together, alone, emulation::kTimings[0]);
  const auto rows = static_cast<size_t>(a.problem.out.stride[0]);
  const auto all = a.output(), first = alone.output();
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + rows, all.begin()));
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedBits,
                         ::testing::Values(Case{.name = "near",
                                                .batch = 2,
                                                .q_heads = 2,
                                                .kv_heads = 2,
                                                .q_len = 200,
                                                .kv_len = 200,
                                                .causal = Causal::kLowerRight},
                                           Case{.name = "far_apart",
                                                .batch = 2,
                                                .q_heads = 2,
                                                .kv_heads = 2,
                                                .q_len = 200,
                                                .kv_len = 700,
                                                .scale = 1.0},
                                           Case{.name = "bias_unaligned",
                                                .batch = 2,
                                                .q_heads = 2,
                                                .kv_heads = 2,
                                                .q_len = 201,
                                                .kv_len = 301,
                                                .mask_kind = MaskKind::kAdditive,
                                                .mask_dtype = DataType::kFloat16,
                                                .mask_shape = {2, 2, 201, 301}},
                                           Case{.name = "bias_rises",
                                                .batch = 2,
                                                .q_heads = 2,
                                                .kv_heads = 2,
                                                .q_len = 200,
                                                .kv_len = 520,
                                                .mask_kind = MaskKind::kAdditive,
                                                .mask_dtype = DataType::kFloat16,
                                                .mask_shape = {2, 2, 200, 520},
                                                .mask_slope = 0.25f,
                                                .mask_hides = 2}),
                         [](const auto& info) { return info.param.name; });

int64_t multiplies(const Case& c) {
  test::Tensors tensors(c);
  run(c, tensors, emulation::kTimings[0]);
  return emulation::machine().multiplies_run;
}
constexpr int64_t kMultipliesPerTile = 2 * (128 / 16 + 128 / 16);  // of two warpgroups at D128

// Every tile of queries has a row whose maximum is not in the first tile of keys, or none has.
TEST(EmulatedForward, ComputesAgainWhereTheFirstMaximaDoNotDo) {
  Case c = {.name = "again", .q_len = 512, .kv_len = 512, .head_dim = 128, .v_head_dim = 128};
  EXPECT_EQ(multiplies(c), 16 * kMultipliesPerTile);
  c.scale = 4.0;
  EXPECT_EQ(multiplies(c), 2 * 16 * kMultipliesPerTile);
}

// Blocks that the masks empty are neither loaded nor multiplied.
TEST(EmulatedForward, SkipsEmptyBlocks) {
  const Case full = {
      .name = "skips", .q_len = 512, .kv_len = 512, .head_dim = 128, .v_head_dim = 128};
  Case causal = full, window = full;
  causal.causal = Causal::kUpperLeft;
  window.window_left = 10;
  window.window_right = 10;
  EXPECT_EQ(multiplies(full), 16 * kMultipliesPerTile);
  EXPECT_EQ(multiplies(causal), 10 * kMultipliesPerTile);
  EXPECT_EQ(multiplies(window), 10 * kMultipliesPerTile);
  Case blocks = full;
  blocks.block_q = blocks.block_k = 128;
  blocks.full_density = 1.0;
  blocks.causal = Causal::kUpperLeft;
  EXPECT_EQ(multiplies(blocks), 10 * kMultipliesPerTile);
  Case keys = full;
  keys.mask_kind = MaskKind::kBool;
  keys.mask_shape = {1, 1, 1, 512};
  keys.kept = {129};
  EXPECT_EQ(multiplies(keys), 8 * kMultipliesPerTile);
}

// A tile that a mask of keys empties adds nothing, to the bit: it may be skipped or computed.
TEST(EmulatedForward, SkippedKeysLeaveTheSameBits) {
  Case alone = {.name = "skipped",
                .q_len = 130,
                .kv_len = 640,
                .mask_kind = MaskKind::kBool,
                .mask_shape = {1, 1, 1, 640},
                .kept = {200}};
  Case every_row = alone;
  every_row.mask_shape = {1, 1, 130, 640};
  test::Tensors skipped(alone), computed(every_row);
  run(alone, skipped, emulation::kTimings[0]);
  run(every_row, computed, emulation::kTimings[0]);
  EXPECT_EQ(skipped.output(), computed.output());
}

// The last 16 bytes of a head's unaligned mask may have keys of the next head's, and behind its
// last rows a tile has whatever was there, here biases that would make maxima be raised.
TEST(EmulatedForward, TheNextHeadsMaskChangesNoBits) {
  constexpr int64_t kRows = 201, kKeys = 301;
  const Case c = {.name = "next_head",
                  .q_heads = 2,
                  .q_len = kRows,
                  .kv_len = kKeys,
                  .mask_kind = MaskKind::kAdditive,
                  .mask_dtype = DataType::kFloat16,
                  .mask_shape = {1, 2, kRows, kKeys}};
  test::Tensors before(c), after(c);
  auto* const next = static_cast<uint16_t*>(const_cast<void*>(after.buffers.mask)) + kRows * kKeys;
  for (int64_t i = 0; i < 64 * kKeys; ++i) {
    next[i] = i % kKeys < 128 ? 0x3c00 : 0x5380;  // 1 and 60
  }
  run(c, before, emulation::kTimings[0]);
  run(c, after, emulation::kTimings[0]);
  const auto a = before.output(), b = after.output();
  const int64_t head = before.problem.out.stride[1], row = before.problem.out.stride[2];
  for (int64_t i = 0; i < kRows; ++i) {  // of head 0
    ASSERT_TRUE(std::equal(a.begin() + i * row, a.begin() + i * row + 64, b.begin() + i * row));
  }
  EXPECT_FALSE(std::equal(a.begin() + head, a.begin() + head + 64, b.begin() + head));
}

// Masks of every element, aligned or not, leave K and V enough stages, whatever the widths and
// blocks.
TEST(ForwardConfigurations, FitInSharedMemory) {
  int unaligned = 0;
  for (const int64_t head_dim : {16, 64, 72, 128, 136, 192, 200, 256})
    for (const int64_t v_head_dim : {16, 128, 192, 256})
      for (const DataType dtype : {DataType::kBool, DataType::kBFloat16, DataType::kFloat32})
        for (const int64_t kv_len : {301, 304})
          for (const int block_q : {0, 64, 128})
            for (const int block_k : {16, 32, 64, 128}) {
              AttentionProblem problem =
                  dense_problem(DataType::kFloat16, 1, 2, 2, 200, kv_len, head_dim, v_head_dim);
              problem.mask_kind = dtype == DataType::kBool ? MaskKind::kBool : MaskKind::kAdditive;
              problem.mask = contiguous(dtype, {1, 1, 200, kv_len});
              problem.block_mask.present = block_q > 0;
              problem.block_mask.block_q = block_q;
              problem.block_mask.block_k = block_k;
              const Shape shape = choose_config(problem, 132).shape;
              EXPECT_GE(shape.stages(), 3);
              EXPECT_LE(
                  shape.ctas_per_multiprocessor() * (shape.shared_bytes() + kSharedReservedPerCta),
                  kSharedPerMultiprocessor);
              EXPECT_EQ(shape.kv_tile % shape.block_keys, 0);
              EXPECT_TRUE(block_q == 0 || block_k % shape.block_keys == 0);
              unaligned += shape.mask_unaligned;
            }
  EXPECT_EQ(unaligned, 8 * 4 * 3 * 3 * 4);
}

}  // namespace
}  // namespace bsk::sm90::attention_forward
