// The vector functions of the CPU kernel, as compiled for the baseline.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "src/cpu/tile/convert.h"
#include "src/cpu/tile/math.h"
#include "src/cpu/tile/transpose.h"
#include "tests/cpu/halo_tensor.h"

namespace bsk::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

double units_in_last_place(float got, double wanted) {
  return std::fabs(got - wanted) / spacing(DataType::kFloat32, wanted);
}

TEST(TileMath, ExpIsAccurate) {
  double worst = 0.0;
  for (double x = 0.0; x > -87.0; x -= 0.00037) {
    const auto rounded = static_cast<float>(x);
    worst = std::max(worst, units_in_last_place(exp_nonpositive(broadcast(rounded))[1],
                                                std::exp(double{rounded})));
  }
  EXPECT_LT(worst, 1.25);  // units in the last place; below 1 where multiply_add rounds once
}

TEST(TileMath, ExpAtItsEnds) {
  EXPECT_EQ(exp_nonpositive(broadcast(0.0f))[0], 1.0f);
  EXPECT_EQ(exp_nonpositive(broadcast(-0.0f))[0], 1.0f);
  for (float x : {-88.0f, -88.5f, -100.0f, -1e30f, -kInfinity}) {
    EXPECT_EQ(exp_nonpositive(broadcast(x))[0], 0.0f) << x;
  }
  EXPECT_TRUE(std::isnan(exp_nonpositive(broadcast(kNan))[0]));
}

TEST(TileMath, TanhIsWithinThreeUnitsInTheLastPlace) {
  double worst = 0.0;
  for (double x = 1e-30; x < 20.0; x = x * 1.0007 + 1e-9) {
    for (double sign : {1.0, -1.0}) {
      const auto rounded = static_cast<float>(sign * x);
      worst = std::max(
          worst, units_in_last_place(tanh(broadcast(rounded))[0], std::tanh(double{rounded})));
    }
  }
  EXPECT_LT(worst, 3.0);
  EXPECT_EQ(tanh(broadcast(kInfinity))[0], 1.0f);
  EXPECT_EQ(tanh(broadcast(-1e30f))[0], -1.0f);
  EXPECT_EQ(tanh(broadcast(0.0f))[0], 0.0f);
  EXPECT_TRUE(std::signbit(tanh(broadcast(-0.0f))[0]));
  EXPECT_TRUE(std::isnan(tanh(broadcast(kNan))[0]));
}

TEST(TileConvert, EveryHalfPrecisionNumber) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    _Float16 as_float16;
    std::memcpy(&as_float16, &half, sizeof(half));
    const auto* bytes = reinterpret_cast<const char*>(&half);
    const float got = load_element(Element::kFloat16, bytes);
    const auto wanted = static_cast<float>(as_float16);
    if (std::isnan(wanted)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
      ASSERT_TRUE(std::isnan(load_element(Element::kFloat16, bytes)));
    } else {
      ASSERT_EQ(bits_of(got), bits_of(wanted)) << bits;
      uint16_t back = 0;
      store_row(Element::kFloat16, &got, 1, reinterpret_cast<char*>(&back));
      ASSERT_EQ(back, half);
    }
    const float brain = load_element(Element::kBFloat16, bytes);
    ASSERT_EQ(bits_of(brain), bits << 16);
    uint16_t back = 0;
    store_row(Element::kBFloat16, &brain, 1, reinterpret_cast<char*>(&back));
    if (std::isnan(brain)) {
      ASSERT_GT(back & 0x7fff, 0x7f80) << bits;
    } else {
      ASSERT_EQ(back, half);
    }
  }
}

TEST(TileConvert, RoundsToNearestEven) {
  for (uint32_t i = 0; i < 2000000; ++i) {
    const float x = float_of(i * 2147u);  // all magnitudes, subnormals, infinities, NaN
    uint16_t got = 0;
    store_row(Element::kFloat16, &x, 1, reinterpret_cast<char*>(&got));
    const auto wanted = static_cast<_Float16>(x);
    uint16_t wanted_bits = 0;
    std::memcpy(&wanted_bits, &wanted, sizeof(wanted_bits));
    if (std::isnan(x)) {
      ASSERT_GT(got & 0x7fff, 0x7c00);
    } else {
      ASSERT_EQ(got, wanted_bits) << x;
    }
  }
}

TEST(TileConvert, RowsOfAnyLength) {
  for (int64_t count = 0; count < 40; ++count) {
    std::vector<uint16_t> brain(static_cast<size_t>(count)), back(brain);
    std::vector<float> wide(static_cast<size_t>(count));
    for (size_t i = 0; i < brain.size(); ++i) brain[i] = static_cast<uint16_t>(0x3f80 + i);
    convert_row(Element::kBFloat16, reinterpret_cast<const char*>(brain.data()), count,
                wide.data());
    store_row(Element::kBFloat16, wide.data(), count, reinterpret_cast<char*>(back.data()));
    EXPECT_EQ(brain, back);
  }
}

TEST(TileTranspose, RowsToLanesAndBack) {
  for (int64_t count : {1, 3, 4, 7, 18}) {
    std::vector<float> rows(static_cast<size_t>(kTileRows * count)), back(rows.size(), 0.0f);
    std::vector<float> lanes(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
    const float* from[kTileRows];
    float* to[kTileRows];
    for (int r = 0; r < kTileRows; ++r) {
      from[r] = rows.data() + r * count;
      to[r] = back.data() + r * count;
    }
    rows_to_lanes(from, kTileRows, count, lanes.data());
    EXPECT_EQ(lanes[static_cast<size_t>((count - 1) * kTileRows + 5)],
              rows[static_cast<size_t>(6 * count - 1)]);
    lanes_to_rows(lanes.data(), kTileRows, count, to);
    EXPECT_EQ(rows, back);
    std::vector<float> some(rows.size(), -1.0f);
    for (int r = 0; r < kTileRows; ++r) to[r] = some.data() + r * count;
    lanes_to_rows(lanes.data(), 7, count, to);  // not a multiple of 4
    EXPECT_EQ(some[static_cast<size_t>(7 * count - 1)], rows[static_cast<size_t>(7 * count - 1)]);
    EXPECT_EQ(some[static_cast<size_t>(7 * count)], -1.0f);
  }
}

TEST(TileTranspose, Bits) {
  uint64_t words[64], transposed[64];
  uint64_t state = 12345;
  for (int i = 0; i < 64; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    words[i] = transposed[i] = state ^ (state >> 29);
  }
  transpose_bits(transposed);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < 64; ++j) ASSERT_EQ(words[i] >> j & 1, transposed[j] >> i & 1);
  }
}

}  // namespace
}  // namespace bsk::cpu
