// The builders of block masks under the emulator, against plain loops over blocks and pairs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "tests/cuda/emulated_block_mask.h"

namespace bsk::sm90::block_mask_build {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

int blocks_of(int length, int size) { return (length + size - 1) / size; }

// Output buffers full of values that no list holds.
struct Lists5 {
  Output out;
  std::vector<int32_t> full_counts, full_indices, partial_counts, partial_indices;
  std::vector<uint8_t> partial_bits;

  explicit Lists5(const Output& sizes) : out(sizes) {
    const auto rows = static_cast<size_t>(out.batch * out.heads * out.q_blocks);
    full_counts.assign(rows, -7);
    full_indices.assign(rows * static_cast<size_t>(out.full_width), -7);
    out.full_counts = full_counts.data();
    out.full_indices = full_indices.data();
    if (out.partial_width == 0) return;
    partial_counts.assign(rows, -7);
    partial_indices.assign(rows * static_cast<size_t>(out.partial_width), -7);
    partial_bits.assign(
        partial_indices.size() * static_cast<size_t>(out.block_q * (out.block_k / 8)), 0xa5);
    out.partial_counts = partial_counts.data();
    out.partial_indices = partial_indices.data();
    out.partial_bits = partial_bits.data();
  }

  std::vector<int> full(int row) const {
    return list(full_counts, full_indices, out.full_width, row);
  }
  std::vector<int> partial(int row) const {
    return list(partial_counts, partial_indices, out.partial_width, row);
  }
  bool bit(int row, int slot, int query, int key) const {
    const int64_t block = int64_t{row} * out.partial_width + slot;
    const int64_t byte = (block * out.block_q + query) * (out.block_k / 8) + key / 8;
    return (partial_bits[static_cast<size_t>(byte)] >> (key % 8) & 1) != 0;
  }

 private:
  static std::vector<int> list(const std::vector<int32_t>& counts,
                               const std::vector<int32_t>& indices, int width, int row) {
    const auto first = indices.begin() + int64_t{row} * width;
    const int count = counts[static_cast<size_t>(row)];
    EXPECT_TRUE(std::all_of(first + count, first + width, [](int32_t i) { return i == 0; }));
    return {first, first + count};
  }
};

Output rows(int heads, int q_blocks, int kv_blocks, int width) {
  Output out;
  out.batch = 1;
  out.heads = heads;
  out.q_blocks = q_blocks;
  out.kv_blocks = kv_blocks;
  out.full_width = width;
  return out;
}

Output pairs(int q_len, int kv_len, int block_q, int block_k) {
  Output out =
      rows(1, blocks_of(q_len, block_q), blocks_of(kv_len, block_k), blocks_of(kv_len, block_k));
  out.partial_width = out.kv_blocks;
  out.block_q = block_q;
  out.block_k = block_k;
  out.q_len = q_len;
  out.kv_len = kv_len;
  return out;
}

template <class T>
Tensor tensor(const std::vector<T>& data, Type type, std::array<int64_t, 4> stride) {
  Tensor result;
  result.data = data.data();
  result.type = type;
  std::copy(stride.begin(), stride.end(), result.stride);
  return result;
}

Tensor row_tensor(const std::vector<float>& data, int heads, int q_blocks, int kv_blocks) {
  const int64_t head = int64_t{q_blocks} * kv_blocks;
  return tensor(data, Type::kFloat32, {heads * head, head, kv_blocks, 1});
}

// Every pair of the lists against `sees(query, key)`. A block of which every pair that exists may
// attend must be full where `exact`.
template <class Sees>
void expect_pairs(const Lists5& lists, bool exact, Sees sees) {
  const Output& out = lists.out;
  for (int row = 0; row < out.q_blocks; ++row) {
    const std::vector<int> full = lists.full(row), partial = lists.partial(row);
    for (int block = 0; block < out.kv_blocks; ++block) {
      const bool in_full = std::count(full.begin(), full.end(), block) > 0;
      const auto at = std::find(partial.begin(), partial.end(), block);
      ASSERT_FALSE(in_full && at != partial.end());
      int seen = 0, all = 0;
      for (int i = 0; i < out.block_q; ++i) {
        for (int j = 0; j < out.block_k; ++j) {
          const int query = row * out.block_q + i, key = block * out.block_k + j;
          if (query >= out.q_len || key >= out.kv_len) continue;
          const bool wanted = sees(query, key);
          ++all;
          seen += wanted ? 1 : 0;
          const bool got =
              in_full ||
              (at != partial.end() && lists.bit(row, static_cast<int>(at - partial.begin()), i, j));
          ASSERT_EQ(got, wanted) << "query " << query << ", key " << key;
        }
      }
      if (exact) {
        ASSERT_EQ(in_full, seen == all) << "row " << row << ", block " << block;
        ASSERT_EQ(at != partial.end(), seen > 0 && seen < all);
      }
    }
  }
}

TEST(BlockMaskBuild, ListsADenseTensorOfAnyStrides) {
  std::mt19937 random(1);
  for (const int kv_blocks : {1, 31, 32, 33, 128, 300}) {
    for (const double density : {0.0, 0.2, 1.0}) {
      const int heads = 3, q_blocks = 5;
      // [q_blocks, kv_blocks, heads] in memory
      std::vector<uint8_t> mask(static_cast<size_t>(heads * q_blocks * kv_blocks));
      for (uint8_t& entry : mask) entry = random() % 1000 < density * 1000;
      Lists5 lists(rows(heads, q_blocks, kv_blocks, kv_blocks));
      test::build_emulated(
          lists.out, Dense{tensor(mask, Type::kBool, {0, 1, kv_blocks * heads, heads})}, random());
      for (int head = 0; head < heads; ++head) {
        for (int row = 0; row < q_blocks; ++row) {
          std::vector<int> wanted;
          for (int block = 0; block < kv_blocks; ++block) {
            if (mask[static_cast<size_t>((row * kv_blocks + block) * heads + head)] != 0)
              wanted.push_back(block);
          }
          ASSERT_EQ(lists.full(head * q_blocks + row), wanted);
        }
      }
    }
  }
}

TEST(BlockMaskBuild, ARowBeyondItsCapacityIsAnAssertion) {
  const std::vector<uint8_t> mask(40, 1);
  Lists5 lists(rows(1, 1, 40, 39));
  EXPECT_THROW(test::build_emulated(lists.out, Dense{tensor(mask, Type::kBool, {40, 40, 40, 1})}),
               emulation::Fault);
}

// The order in which blocks are taken: by score, then by index; NaN and -inf never.
std::vector<int> ranked(const float* scores, int count) {
  std::vector<int> order;
  for (int i = 0; i < count; ++i) {
    if (scores[i] > -kInfinity) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  return order;
}

std::vector<float> some_scores(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const float special[] = {kNaN, -kInfinity, 0.0f, -0.0f, 1.5f, -1e-42f};
  std::vector<float> scores(count);
  for (float& score : scores) score = random() % 3 == 0 ? special[random() % 6] : normal(random);
  return scores;
}

TEST(BlockMaskBuild, TakesTheBestScores) {
  std::mt19937 random(2);
  for (const int kv_blocks : {1, 60, 128, 129, 512, 513, 2048}) {
    for (const int k : {0, 1, 14, 100, 3000}) {
      const int heads = 2, q_blocks = 3, width = std::min(k, kv_blocks);
      std::vector<float> scores =
          some_scores(static_cast<size_t>(heads * q_blocks * kv_blocks), random);
      scores[0] = kInfinity;
      Lists5 lists(rows(heads, q_blocks, kv_blocks, width));
      Scores source;
      source.scores = row_tensor(scores, heads, q_blocks, kv_blocks);
      source.k = k;
      test::build_emulated(lists.out, source, random());
      for (int row = 0; row < heads * q_blocks; ++row) {
        std::vector<int> wanted = ranked(scores.data() + row * kv_blocks, kv_blocks);
        wanted.resize(std::min(wanted.size(), static_cast<size_t>(k)));
        std::sort(wanted.begin(), wanted.end());
        ASSERT_EQ(lists.full(row), wanted) << kv_blocks << " blocks, k = " << k;
      }
    }
  }
}

TEST(BlockMaskBuild, TakesTheFewestThatHoldAShareOfTheMass) {
  std::mt19937 random(3);
  for (const bool softmax : {true, false}) {
    for (const int kv_blocks : {1, 60, 128, 300, 1024}) {
      for (const double share : {0.0, 1e-300, 0.5, 0.95, 1.0}) {
        std::vector<float> scores = some_scores(static_cast<size_t>(kv_blocks), random);
        if (!softmax) {
          for (float& score : scores) score = std::isinf(score) ? score : std::fabs(score);
        }
        Scores source;
        source.selection = Selection::kMass;
        source.scores = row_tensor(scores, 1, 1, kv_blocks);
        source.share = share;
        source.softmax = softmax;
        Lists5 lists(rows(1, 1, kv_blocks, kv_blocks));
        test::build_emulated(lists.out, source, random());
        const std::vector<int> order = ranked(scores.data(), kv_blocks);
        std::vector<float> mass(static_cast<size_t>(kv_blocks));
        double total = 0;
        for (const int i : order) {
          const auto at = static_cast<size_t>(i);
          mass[at] =
              softmax ? std::exp(scores[at] - scores[static_cast<size_t>(order[0])]) : scores[at];
          total += mass[at];
        }
        std::vector<int> wanted;
        double before = 0;
        for (const int i : order) {
          const float own = mass[static_cast<size_t>(i)];
          const bool enough = share < 1.0 && before >= std::max(share * total, 1e-307);
          if (share == 0.0 || enough || (own == 0.0f && share < 1.0) || (!softmax && own == 0.0f))
            break;
          wanted.push_back(i);
          before += own;
        }
        std::sort(wanted.begin(), wanted.end());
        ASSERT_EQ(lists.full(0), wanted) << kv_blocks << " blocks, share " << share;
      }
    }
  }
}

TEST(BlockMaskBuild, ANegativeMassIsAnAssertion) {
  const std::vector<float> scores = {1.0f, -1.0f};
  Scores source;
  source.selection = Selection::kMass;
  source.scores = row_tensor(scores, 1, 1, 2);
  source.share = 0.5;
  source.softmax = false;
  Lists5 lists(rows(1, 1, 2, 2));
  EXPECT_THROW(test::build_emulated(lists.out, source), emulation::Fault);
}

TEST(BlockMaskBuild, ListsEntriesInAnyOrder) {
  std::mt19937 random(4);
  const int q_blocks = 9, width = 50, kv_blocks = 70;
  std::vector<int64_t> indices(q_blocks * width);
  for (int64_t& index : indices) index = static_cast<int64_t>(random() % 71) - 1;
  std::vector<int32_t> counts(q_blocks);
  for (int32_t& count : counts) count = static_cast<int32_t>(random() % (width + 1));
  Lists5 lists(rows(1, q_blocks, kv_blocks, width));
  Lists source;
  source.indices = tensor(indices, Type::kInt64, {0, 0, width, 1});
  source.counts = tensor(counts, Type::kInt32, {0, 0, 1, 0});
  source.width = width;
  test::build_emulated(lists.out, source);
  for (int row = 0; row < q_blocks; ++row) {
    const auto first = indices.begin() + row * width;
    std::set<int64_t> wanted(first, first + counts[static_cast<size_t>(row)]);
    wanted.erase(-1);
    ASSERT_EQ(lists.full(row), std::vector<int>(wanted.begin(), wanted.end()));
  }
  indices[0] = kv_blocks;
  counts[0] = 1;
  EXPECT_THROW(test::build_emulated(lists.out, source), emulation::Fault);
}

TEST(BlockMaskBuild, ListsCompressedRows) {
  const std::vector<int32_t> indptr = {0, 2, 2, 5}, indices = {7, 3, 9, 0, 9};
  CompressedRows source{tensor(indptr, Type::kInt32, {0, 0, 0, 1}),
                        tensor(indices, Type::kInt32, {0, 0, 0, 1}), 5, 3};
  Lists5 lists(rows(1, 3, 40, 3));
  test::build_emulated(lists.out, source);
  EXPECT_EQ(lists.full(0), (std::vector<int>{3, 7}));
  EXPECT_EQ(lists.full(1), std::vector<int>{});
  EXPECT_EQ(lists.full(2), (std::vector<int>{0, 9}));
  source.max_blocks_per_row = 2;
  EXPECT_THROW(test::build_emulated(lists.out, source), emulation::Fault);
}

TEST(BlockMaskBuild, VerticalAndSlashComputeEveryBlockTheyTouch) {
  const std::vector<int64_t> vertical = {5, -1, 300, 131}, slash = {0, 77, -1, 5000};
  Output out = pairs(500, 400, 64, 32);
  out.partial_width = 0;
  const int offset = 400 - 500;
  Lists5 lists(out);
  test::build_emulated(out = lists.out,
                       VerticalSlash{tensor(vertical, Type::kInt64, {0, 0, 0, 1}),
                                     tensor(slash, Type::kInt64, {0, 0, 0, 1}), 4, 4, offset});
  for (int row = 0; row < out.q_blocks; ++row) {
    std::set<int> wanted = {5 / 32, 300 / 32, 131 / 32};
    for (int query = row * 64; query < std::min(500, row * 64 + 64); ++query) {
      for (const int64_t s : {0, 77, 5000}) {
        const int64_t key = query + offset - s;
        if (key >= 0 && key < 400) wanted.insert(static_cast<int>(key) / 32);
      }
    }
    ASSERT_EQ(lists.full(row), std::vector<int>(wanted.begin(), wanted.end()));
  }
}

TEST(BlockMaskBuild, WindowsAreExact) {
  for (const auto& [block_q, block_k] : {std::pair{64, 16}, {128, 64}, {64, 128}}) {
    for (const auto& [left, right, sink] :
         {std::tuple{100, 0, 0}, {kUnboundedReach, 0, 0}, {3, 200, 70}, {0, 0, 1}}) {
      const int q_len = 300, kv_len = 411, offset = kv_len - q_len;
      Lists5 lists(pairs(q_len, kv_len, block_q, block_k));
      test::build_emulated(lists.out, Window{offset, left, right, sink});
      expect_pairs(lists, true, [&, l = left, r = right, s = sink](int query, int key) {
        const int distance = key - query - offset;
        return distance <= r && (distance >= -l || key < s);
      });
    }
  }
}

TEST(BlockMaskBuild, DocumentsAreExact) {
  // Empty documents, one that ends at a block's edge, padding behind the last.
  const std::vector<int32_t> boundaries = {0, 0, 64, 64, 200, 201, 384, 500};
  const int length = 520;
  Lists5 by_boundaries(pairs(length, length, 64, 64));
  test::build_emulated(by_boundaries.out,
                       Segments{tensor(boundaries, Type::kInt32, {0, 0, 0, 1}), 8});
  const auto document = [&](int token) {
    return std::upper_bound(boundaries.begin(), boundaries.end(), token) - boundaries.begin();
  };
  const auto sees = [&](int query, int key) {
    return query < 500 && key < 500 && document(query) == document(key);
  };
  expect_pairs(by_boundaries, true, sees);

  std::vector<int64_t> ids(length);
  for (int token = 0; token < length; ++token) {
    ids[static_cast<size_t>(token)] = token < 500 ? (int64_t{1} << 40) + document(token) : -1;
  }
  Lists5 by_ids(pairs(length, length, 64, 64));
  std::vector<IdRange> ranges(static_cast<size_t>(id_ranges(by_ids.out)));
  const Ids source{tensor(ids, Type::kInt64, {0, 0, 0, 1}), ranges.data()};
  test::build_emulated(by_ids.out, source);
  expect_pairs(by_ids, true, sees);

  std::shuffle(ids.begin(), ids.end(), std::mt19937(5));  // right for ids in any order
  test::build_emulated(by_ids.out, source);
  expect_pairs(by_ids, false, [&](int query, int key) {
    const int64_t id = ids[static_cast<size_t>(query)];
    return id >= 0 && id == ids[static_cast<size_t>(key)];
  });
}

TEST(BlockMaskBuild, BoundariesThatFallAreAnAssertion) {
  const std::vector<int32_t> boundaries = {0, 90, 60};
  Lists5 lists(pairs(100, 100, 64, 64));
  EXPECT_THROW(
      test::build_emulated(lists.out, Segments{tensor(boundaries, Type::kInt32, {0, 0, 0, 1}), 3}),
      emulation::Fault);
}

TEST(BlockMaskBuild, StridesCountFromTheDiagonal) {
  Output out = pairs(1000, 1000, 128, 64);
  out.partial_width = 0;
  Lists5 lists(out);
  test::build_emulated(lists.out, Strided{0, 5, 2, true});
  // Row 4 holds the diagonal of key blocks 8 and 9.
  EXPECT_EQ(lists.full(4), (std::vector<int>{3, 7, 8, 9}));
}

// bf16 values are the upper halves of fp32 ones.
float value_of(uint16_t bits) {
  const uint32_t word = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

TEST(BlockMaskBuild, PoolsAndMultiplies) {
  std::mt19937 random(6);
  const int q_heads = 4, kv_heads = 2, q_len = 150, kv_len = 2200, head_dim = 72;
  std::vector<uint16_t> q(q_heads * q_len * head_dim), k(kv_heads * kv_len * head_dim);
  for (std::vector<uint16_t>* data : {&q, &k}) {
    for (uint16_t& bits : *data) bits = static_cast<uint16_t>(0x3f00 + random() % 256);
  }
  for (const bool maximum : {false, true}) {
    for (const int heads : {q_heads, kv_heads}) {
      PooledProductParams params;
      PoolParams& pool = params.pool;
      pool = {tensor(q, Type::kBFloat16, {0, q_len * head_dim, head_dim, 1}),
              tensor(k, Type::kBFloat16, {0, kv_len * head_dim, head_dim, 1}),
              nullptr,
              nullptr,
              maximum,
              1,
              q_heads,
              kv_heads,
              head_dim,
              q_len,
              kv_len,
              blocks_of(q_len, 64),
              blocks_of(kv_len, 64),
              64,
              64};
      ASSERT_TRUE(takes_pool(pool));
      std::vector<float> pooled_q(static_cast<size_t>(q_heads * pool.q_blocks * head_dim), kNaN);
      std::vector<float> pooled_k(static_cast<size_t>(kv_heads * pool.kv_blocks * head_dim), kNaN);
      std::vector<float> scores(static_cast<size_t>(heads * pool.q_blocks * pool.kv_blocks), kNaN);
      pool.pooled_q = pooled_q.data();
      pool.pooled_k = pooled_k.data();
      params.scores = scores.data();
      params.scale = 0.5f;
      params.heads = heads;
      params.causal = true;
      params.offset = kv_len - q_len;
      test::pooled_scores_emulated(params, random());
      const auto pooled = [&](const std::vector<uint16_t>& data, int length, int head, int block,
                              int channel) {
        double sum = 0, most = -1;
        const int end = std::min(length, block * 64 + 64);
        for (int row = block * 64; row < end; ++row) {
          const float value =
              value_of(data[static_cast<size_t>((head * length + row) * head_dim + channel)]);
          sum += value;
          most = std::max(most, static_cast<double>(value));
        }
        return maximum ? most : sum / (end - block * 64);
      };
      const int group = q_heads / heads;
      for (int head = 0; head < heads; ++head) {
        for (int i = 0; i < pool.q_blocks; ++i) {
          for (const int j : {0, 1, 31, 32, 33, 34}) {
            double wanted = 0;
            for (int h = head * group; h < (head + 1) * group; ++h) {
              for (int c = 0; c < head_dim; ++c) {
                wanted += pooled(q, q_len, h, i, c) * pooled(k, kv_len, h / 2, j, c) * 0.5 / group;
              }
            }
            const int last = std::min(i * 64 + 63, q_len - 1) + params.offset;
            const float got =
                scores[static_cast<size_t>((head * pool.q_blocks + i) * pool.kv_blocks + j)];
            if (j * 64 > last) {
              ASSERT_EQ(got, -kInfinity);
            } else {
              ASSERT_NEAR(got, wanted, 1e-4 * wanted);
            }
          }
        }
      }
    }
  }
}

TEST(BlockMaskBuild, TakesWhatFitsItsRegistersAndBitmaps) {
  Scores mass;
  mass.selection = Selection::kMass;
  EXPECT_TRUE(takes(rows(1, 1, 2048, 1), Scores{}));
  EXPECT_FALSE(takes(rows(1, 1, 2049, 1), Scores{}));
  EXPECT_TRUE(takes(rows(1, 1, 1024, 1), mass));
  EXPECT_FALSE(takes(rows(1, 1, 1025, 1), mass));
  EXPECT_TRUE(takes(rows(1, 1, 65536, 1), Lists{}));
  EXPECT_FALSE(takes(rows(1, 1, 65537, 1), Lists{}));
  EXPECT_TRUE(takes(rows(1, 1, 1 << 20, 1), Dense{}));
  Output far = pairs(100, 100, 64, 64);
  far.kv_len = 1 << 28;
  EXPECT_FALSE(takes(far, Window{}));
}

}  // namespace
}  // namespace bsk::sm90::block_mask_build
