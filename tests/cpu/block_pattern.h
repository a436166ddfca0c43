// Block masks for tests: what is computed, said twice. Once plainly (`allows`), for the tests' own
// evaluation; once as the lists that kernels read.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "bsk/block_mask.h"

namespace bsk {

struct BlockPattern {
  BlockMaskLayout layout;
  int64_t kv_blocks = 0;
  std::vector<uint8_t> state;  // per (row of blocks, key block): 0 none, 1 full, 2 partial
  std::vector<int32_t> full_counts, full_indices, partial_counts, partial_indices;
  std::vector<uint8_t> partial_bits;

  int64_t row_of(int64_t b, int64_t mask_head, int64_t i) const {
    return ((layout.batch == 1 ? 0 : b) * layout.heads + mask_head) * layout.q_blocks +
           i / layout.block_q;
  }

  // The bit of a pair in a partial block: any fixed pattern does, as long as it is dense and rough.
  static bool bit(int64_t row, int64_t i, int64_t j) {
    const uint64_t mixed =
        static_cast<uint64_t>(row * 1000003 + i * 8191 + j) * 0x9e3779b97f4a7c15u;
    return (mixed >> 61) % 2 == 0;
  }

  bool allows(int64_t b, int64_t mask_head, int64_t i, int64_t j) const {
    const int64_t row = row_of(b, mask_head, i);
    const uint8_t kind = state[static_cast<size_t>(row * kv_blocks + j / layout.block_k)];
    return kind == 1 || (kind == 2 && bit(row, i, j));
  }

  BlockMaskBuffers buffers() const {
    return {full_counts.data(), full_indices.data(), partial_counts.data(), partial_indices.data(),
            partial_bits.data()};
  }
};

struct BlockPatternOptions {
  int32_t block_q = 64, block_k = 64;
  int64_t batch = 1, heads = 1, q_len = 0, kv_len = 0;
  double full_density = 0.3, partial_density = 0.0;
  bool empty_rows = false;       // every third row of blocks lists nothing
  bool invalid_entries = false;  // entries outside [0, kv_blocks) among the valid ones, to ignore
};

inline BlockPattern make_pattern(const BlockPatternOptions& o, std::mt19937& random) {
  BlockPattern p;
  const auto blocks = [](int64_t length, int32_t block) { return (length + block - 1) / block; };
  p.kv_blocks = blocks(o.kv_len, o.block_k);
  p.layout = {true, o.block_q, o.block_k, o.batch, o.heads, blocks(o.q_len, o.block_q), 0, 0};
  const int64_t rows = o.batch * o.heads * p.layout.q_blocks;
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  std::vector<std::vector<int32_t>> full(static_cast<size_t>(rows)), partial(full);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t block = 0; block < p.kv_blocks; ++block) {
      const double x = uniform(random);
      uint8_t kind = x < o.full_density ? 1 : (x < o.full_density + o.partial_density ? 2 : 0);
      if (o.empty_rows && row % 3 == 1) kind = 0;
      p.state.push_back(kind);
      auto& list = (kind == 2 ? partial : full)[static_cast<size_t>(row)];
      if (kind != 0) list.push_back(static_cast<int32_t>(block));
      if (o.invalid_entries && block % 3 == 0) {
        list.push_back(block % 2 == 0 ? -1 - static_cast<int32_t>(block) : INT32_MAX);
      }
    }
  }
  // One entry more than the longest list, of garbage that the counts exclude.
  size_t full_width = 1, partial_width = 0;
  for (const auto& list : full) full_width = std::max(full_width, list.size() + 1);
  if (o.partial_density > 0.0 || o.invalid_entries) {
    for (const auto& list : partial) partial_width = std::max(partial_width, list.size() + 1);
  }
  p.layout.full_width = static_cast<int64_t>(full_width);
  p.layout.partial_width = static_cast<int64_t>(partial_width);
  for (int64_t row = 0; row < rows; ++row) {
    for (auto* lists : {&full, &partial}) {
      auto& list = (*lists)[static_cast<size_t>(row)];
      (lists == &full ? p.full_counts : p.partial_counts)
          .push_back(static_cast<int32_t>(list.size()));
      const size_t width = lists == &full ? full_width : partial_width;
      auto& indices = lists == &full ? p.full_indices : p.partial_indices;
      for (size_t e = 0; e < width; ++e) indices.push_back(e < list.size() ? list[e] : 1 << 20);
      if (lists == &full) continue;
      for (size_t e = 0; e < width; ++e) {
        for (int64_t line = 0; line < o.block_q; ++line) {
          const int64_t i = row % p.layout.q_blocks * o.block_q + line;
          for (int64_t byte = 0; byte < o.block_k / 8; ++byte) {
            uint8_t bits = 0;
            for (int64_t k = 0; e < list.size() && k < 8; ++k) {
              const int64_t j = int64_t{list[e]} * o.block_k + byte * 8 + k;
              bits |= static_cast<uint8_t>(BlockPattern::bit(row, i, j) << k);
            }
            p.partial_bits.push_back(bits);
          }
        }
      }
    }
  }
  return p;
}

}  // namespace bsk
