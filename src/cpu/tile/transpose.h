// Between rows in memory and lanes: a matrix of `count` columns, one row per lane, and its
// transpose [count][kTileRows]. By squares of 4 x 4, which every instruction set shuffles in
// registers.
#pragma once

#include "src/cpu/tile.h"
#include "src/cpu/tile/simd.h"

namespace bsk::cpu {
namespace {

typedef float Vec4 __attribute__((vector_size(16), may_alias));
typedef float UnalignedVec4 __attribute__((vector_size(16), may_alias, aligned(4)));

BSK_INLINE void transpose_square(Vec4& a, Vec4& b, Vec4& c, Vec4& d) {
  const Vec4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Vec4 ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vec4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Vec4 cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

BSK_INLINE Vec4 load4(const float* p) { return *reinterpret_cast<const UnalignedVec4*>(p); }
BSK_INLINE void store4(float* p, Vec4 x) { *reinterpret_cast<UnalignedVec4*>(p) = x; }

// lanes_out[column][lane] = rows[lane][column] for lanes [0, lanes), `lanes` a multiple of 4.
void rows_to_lanes(const float* const* rows, int lanes, int64_t count, float* lanes_out) {
  for (int lane = 0; lane < lanes; lane += 4) {
    const float* const* row = rows + lane;
    int64_t c = 0;
    for (; c + 4 <= count; c += 4) {
      Vec4 x0 = load4(row[0] + c), x1 = load4(row[1] + c);
      Vec4 x2 = load4(row[2] + c), x3 = load4(row[3] + c);
      transpose_square(x0, x1, x2, x3);
      float* to = lanes_out + c * kTileRows + lane;
      store4(to, x0);
      store4(to + kTileRows, x1);
      store4(to + 2 * kTileRows, x2);
      store4(to + 3 * kTileRows, x3);
    }
    for (; c < count; ++c) {
      for (int i = 0; i < 4; ++i) lanes_out[c * kTileRows + lane + i] = row[i][c];
    }
  }
}

// rows[lane][column] = lanes_in[column][lane] for lanes [0, lanes); any number of lanes.
void lanes_to_rows(const float* lanes_in, int lanes, int64_t count, float* const* rows) {
  int lane = 0;
  for (; lane + 4 <= lanes; lane += 4) {
    float* const* row = rows + lane;
    int64_t c = 0;
    for (; c + 4 <= count; c += 4) {
      const float* from = lanes_in + c * kTileRows + lane;
      Vec4 x0 = load4(from), x1 = load4(from + kTileRows);
      Vec4 x2 = load4(from + 2 * kTileRows), x3 = load4(from + 3 * kTileRows);
      transpose_square(x0, x1, x2, x3);
      store4(row[0] + c, x0);
      store4(row[1] + c, x1);
      store4(row[2] + c, x2);
      store4(row[3] + c, x3);
    }
    for (; c < count; ++c) {
      for (int i = 0; i < 4; ++i) row[i][c] = lanes_in[c * kTileRows + lane + i];
    }
  }
  for (; lane < lanes; ++lane) {
    for (int64_t c = 0; c < count; ++c) rows[lane][c] = lanes_in[c * kTileRows + lane];
  }
}

// The transpose of a 64 x 64 matrix of bits in place: bit j of word i <-> bit i of word j. Swaps
// the off-diagonal halves of ever smaller squares.
void transpose_bits(uint64_t* words) {
  uint64_t low = 0x00000000ffffffffull;  // the low half of each square's columns
  for (int half = 32; half != 0; half >>= 1, low ^= low << half) {
    for (int i = 0; i < 64; ++i) {
      if ((i & half) != 0) continue;
      const uint64_t swapped = ((words[i] >> half) ^ words[i + half]) & low;
      words[i] ^= swapped << half;
      words[i + half] ^= swapped;
    }
  }
}

}  // namespace
}  // namespace bsk::cpu
