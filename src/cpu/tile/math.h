// exp and tanh on vectors. The polynomials are least-maximum-error fits made for this file
// (Lawson's iteration in fp64), so that no table and no library call is needed in the inner loops.
#pragma once

#include "src/cpu/tile/simd.h"

namespace bsk::cpu {
namespace {

// e^x for x <= 0: within 1.25 units in the last place where the result is a normal number, exactly
// 1 at 0, exactly 0 below -87.7 and at -inf; NaN stays NaN.
//
// x = n ln2 + r with |r| <= ln2 / 2, e^x = 2^n * e^r. ln2 is split so that n * kLn2High is exact.
BSK_INLINE Vec exp_nonpositive(Vec x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kSmallest = -88.1f;      // rounds to n = -127, whose 2^n below is exactly 0
  x = maximum(broadcast(kSmallest), x);    // keeps a NaN
  const Vec shifted = multiply_add(x, broadcast(kLog2E), broadcast(kRounder));
  const Vec n = shifted - kRounder;
  Vec r = multiply_add(n, broadcast(-kLn2High), x);
  r = multiply_add(n, broadcast(-kLn2Low), r);
  Vec e = broadcast(1.38145406e-3f);
  e = multiply_add(e, r, broadcast(8.36874545e-3f));
  e = multiply_add(e, r, broadcast(4.16683890e-2f));
  e = multiply_add(e, r, broadcast(1.66665211e-1f));
  e = multiply_add(e, r, broadcast(4.99999940e-1f));
  e = multiply_add(e, r, broadcast(1.0f));
  e = multiply_add(e, r, broadcast(1.0f));
  // The low bits of `shifted` hold n; moved into the exponent field they make 2^n.
  const IntVec exponent = ((IntVec)shifted << 23) + 0x3f800000;
  return e * (Vec)exponent;
}

// tanh, within 3 units in the last place: an odd polynomial near 0, by exp elsewhere.
BSK_INLINE Vec tanh(Vec x) {
  constexpr int32_t kSign = INT32_MIN;
  const Vec magnitude = (Vec)((IntVec)x & ~kSign);
  const Vec square = x * x;
  Vec p = broadcast(2.14294484e-3f);
  p = multiply_add(p, square, broadcast(-8.17738008e-3f));
  p = multiply_add(p, square, broadcast(2.17006970e-2f));
  p = multiply_add(p, square, broadcast(-5.39467633e-2f));
  p = multiply_add(p, square, broadcast(1.33332059e-1f));
  p = multiply_add(p, square, broadcast(-3.33333313e-1f));
  const Vec near = multiply_add(p * square, magnitude, magnitude);
  const Vec e = exp_nonpositive(magnitude * -2.0f);
  const Vec far = (1.0f - e) / (1.0f + e);
  const Vec result = select(magnitude < 0.625f, near, far);
  return (Vec)((IntVec)result | ((IntVec)x & kSign));
}

}  // namespace
}  // namespace bsk::cpu
