// Causal attention with grouped queries and a block mask, from C++, checked against the fp64
// reference kernel. Exits 0 only if they agree.
#include "bsk/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

constexpr int64_t kBatch = 2, kQHeads = 4, kKvHeads = 2, kLength = 256, kHeadDim = 64;
constexpr int64_t kBlock = 64, kBlocks = kLength / kBlock;

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return normal(generator); });
  return values;
}

// Each block of queries sees its own block of keys and the first one (an attention sink).
struct SinkAndDiagonal {
  std::vector<int32_t> counts;   // [1, 1, kBlocks]
  std::vector<int32_t> indices;  // [1, 1, kBlocks, 2], ascending

  SinkAndDiagonal() {
    for (int32_t block = 0; block < kBlocks; ++block) {
      counts.push_back(block == 0 ? 1 : 2);
      indices.insert(indices.end(), {0, block});
    }
  }
};

}  // namespace

int main() try {
  bsk::AttentionProblem problem = bsk::dense_problem(
      bsk::DataType::kFloat32, kBatch, kQHeads, kKvHeads, kLength, kLength, kHeadDim, kHeadDim);
  problem.causal = bsk::Causal::kUpperLeft;
  problem.block_mask = {.present = true,
                        .block_q = kBlock,
                        .block_k = kBlock,
                        .batch = 1,
                        .heads = 1,
                        .q_blocks = kBlocks,
                        .full_width = 2};

  const SinkAndDiagonal mask;
  const auto q = random_values(kBatch * kQHeads * kLength * kHeadDim, 1);
  const auto k = random_values(kBatch * kKvHeads * kLength * kHeadDim, 2);
  const auto v = random_values(kBatch * kKvHeads * kLength * kHeadDim, 3);
  std::vector<float> out(q.size()), expected(q.size());

  bsk::AttentionBuffers buffers;
  buffers.q = q.data();
  buffers.k = k.data();
  buffers.v = v.data();
  buffers.out = out.data();
  buffers.block_mask.full_counts = mask.counts.data();
  buffers.block_mask.full_indices = mask.indices.data();

  const bsk::DeviceProperties cpu = bsk::cpu_properties();
  const bsk::AttentionPlan plan = bsk::attention_forward(problem, buffers, cpu);
  std::printf("%s\n", bsk::to_string(plan).c_str());

  buffers.out = expected.data();
  bsk::attention_forward(problem, buffers, cpu, "cpu_reference");

  double largest_difference = 0.0;
  for (size_t i = 0; i < out.size(); ++i) {
    largest_difference = std::max(largest_difference, std::abs(double{out[i]} - expected[i]));
  }
  // The first query sees the first key alone, so its result is that key's value.
  const bool first_row_is_v = std::equal(v.begin(), v.begin() + kHeadDim, out.begin());
  std::printf("largest difference from fp64: %.3g; first row equals V's first: %s\n",
              largest_difference, first_row_is_v ? "yes" : "no");
  return largest_difference < 1e-5 && first_row_is_v ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (const bsk::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return EXIT_FAILURE;
}
