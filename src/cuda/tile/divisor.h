// Division by a number that is known at launch: a multiplication instead of some thirty
// instructions in front of the first copy.
#pragma once

#include "src/cuda/arch/types.h"

namespace bsk::tile {

// n / value for 0 <= n < 2^31 (Granlund and Montgomery, "Division by invariant integers using
// multiplication", PLDI 1994: with 2^shift >= value and multiplier = ceil(2^(31 + shift) / value),
// the quotient is (n * multiplier) >> (31 + shift); the multiplier fits 32 bits).
struct Divisor {
  uint32_t value = 1, multiplier = 1u << 31, shift = 0;

  constexpr Divisor() = default;
  constexpr explicit Divisor(uint32_t divisor) : value(divisor) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }
  constexpr int divide(int n) const {
    return static_cast<int>((static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier) >>
                            (31 + shift));
  }
};

}  // namespace bsk::tile
