// The best blocks of a row of scores: the k greatest, or the fewest that hold a share of the mass.
//
// Both look for a threshold, bit by bit from the highest in which the row's scores differ: the
// greatest value such that the blocks not below it suffice. Blocks at the threshold itself are
// taken from the left as long as they are needed, so ties go to the lowest index.
#pragma once

#include "src/cuda/sm90/block_mask_build/row_lists.cuh"

namespace bsk::sm90::block_mask_build {

// Unsigned integers in the order of the floats; 0 for what is never taken (-inf and NaN).
__device__ __forceinline__ uint32_t order_key(float score) {
  const uint32_t bits = arch::float_bits(score + 0.0f);  // -0 is 0
  const bool negative = (bits & 0x80000000u) != 0;
  const bool usable = (bits & 0x7fffffffu) < 0x7f800000u || bits == 0x7f800000u;
  return !usable ? 0 : negative ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_score(uint32_t key) {
  return arch::bits_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// Sums over the warp in one order, so that the same scores give the same bits.
__device__ __forceinline__ double warp_sum_of(double value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += arch::shuffle_xor(value, distance);
  }
  return value;
}

enum class Verdict : int { kTooFew, kEnough, kExact };

// The greatest T of which judge(T) is not kTooFew, or any T of which it is kExact. The least usable
// key is enough, and less is not.
template <int kItems, class Judge>
__device__ __forceinline__ uint32_t threshold(const uint32_t (&keys)[kItems], uint32_t greatest,
                                              Judge judge) {
  uint32_t least = 0xffffffffu;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (keys[i] != 0) least = smaller(least, keys[i]);
  }
  least = arch::warp_minimum(least);
  if (least == greatest) return greatest;
  uint32_t bit = 0x80000000u >> arch::leading_zeros(least ^ greatest);
  uint32_t result = greatest & ~(2 * bit - 1);  // the bits that all keys share; 2 * 2^31 is 0
  for (; bit != 0; bit >>= 1) {
    const Verdict verdict = judge(result | bit);
    if (verdict != Verdict::kTooFew) result |= bit;
    if (verdict == Verdict::kExact) break;
  }
  return result;
}

// Marks in `taken` the blocks of the row; item i of a lane is block 32 * i + lane.
template <int kItems>
__device__ __forceinline__ void take_best(const uint32_t (&keys)[kItems], int k,
                                          bool (&taken)[kItems]) {
  const auto count_from = [&keys](uint32_t least) {
    uint32_t count = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) count += keys[i] >= least ? 1 : 0;
    return static_cast<int>(arch::warp_sum(count));
  };
  uint32_t greatest = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) greatest = larger(greatest, keys[i]);
  greatest = arch::warp_maximum(greatest);
  const bool all = count_from(1) <= k;
  uint32_t least = 1;
  int needed = k;  // of those at the threshold
  if (!all) {
    least = threshold(keys, greatest, [&](uint32_t t) {
      const int count = count_from(t);
      return count < k ? Verdict::kTooFew : count > k ? Verdict::kEnough : Verdict::kExact;
    });
    if (least != 0xffffffffu) needed = k - count_from(least + 1);
  }
  int at_threshold = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool tie = !all && keys[i] == least;
    const uint32_t ties = arch::ballot(tie);
    const int before = at_threshold + arch::population_count(ties & ((1u << lane_index()) - 1));
    at_threshold += arch::population_count(ties);
    taken[i] = k > 0 && keys[i] >= least && (!tie || before < needed);
  }
}

// Overwrites the keys: from here on a block's key is the bits of its mass, which order like it.
template <int kItems>
__device__ __forceinline__ void take_mass(uint32_t (&keys)[kItems], const Scores& source,
                                          bool (&taken)[kItems]) {
  // inf as the greatest number, so that masses add up.
  constexpr uint32_t kGreatestNumber = 0xff7fffffu;
  uint32_t greatest = 0;
  bool negative = false;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    keys[i] = smaller(keys[i], kGreatestNumber);
    negative = negative || (keys[i] != 0 && keys[i] < 0x80000000u);
    greatest = larger(greatest, keys[i]);
  }
  greatest = arch::warp_maximum(greatest);
  if (!source.softmax && negative) {
    arch::fail_assertion("scores: must be >= 0 where softmax=False. Pass softmax=True for logits.");
  }
  const bool all = source.share >= 1.0;
  const float best = key_score(greatest);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (keys[i] == 0) continue;
    const float score = key_score(keys[i]);
    const float mass = source.softmax ? arch::exponential(score - best) : larger(score, 0.0f);
    // All are those with a mass in exact arithmetic.
    keys[i] = arch::float_bits(source.softmax && all ? 1.0f : mass);
  }
  const auto mass_from = [&keys](uint32_t least) {
    double sum = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) sum += keys[i] >= least ? arch::bits_float(keys[i]) : 0.0f;
    return warp_sum_of(sum);
  };
  uint32_t least = 1;
  double above = 0, wanted = 0;
  if (!all) {
    constexpr double kTiny = 2.2250738585072014e-308;  // a share > 0 asks for the heaviest block
    wanted = source.share > 0.0 ? larger(source.share * mass_from(1), kTiny) : 0.0;
    greatest = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) greatest = larger(greatest, keys[i]);
    greatest = arch::warp_maximum(greatest);
    if (greatest != 0) {
      least = threshold(keys, greatest, [&](uint32_t t) {
        return mass_from(t) >= wanted ? Verdict::kEnough : Verdict::kTooFew;
      });
    }
    above = mass_from(least + 1);
  }
  int at_threshold = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool tie = !all && keys[i] == least;
    const uint32_t ties = arch::ballot(tie);
    const int before = at_threshold + arch::population_count(ties & ((1u << lane_index()) - 1));
    at_threshold += arch::population_count(ties);
    const double mass = arch::bits_float(keys[i]);
    taken[i] = keys[i] >= least && (!tie || above + before * mass < wanted);
  }
}

}  // namespace bsk::sm90::block_mask_build
