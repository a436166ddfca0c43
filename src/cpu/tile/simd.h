// One vector of floats, of the width of the instruction set that this file is compiled for.
// Included by attend_tile.cc only, and everything is internal to it.
//
// A multiply-add is always one named operation (`multiply_add`), and the files are compiled with
// -ffp-contract=off: the bits of a lane must not depend on which products a compiler happens to
// fuse.
#pragma once

#if defined(__x86_64__) || defined(__i386__)
// GCC 12's own header makes "undefined" registers by reading an uninitialized variable.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include <cstddef>
#include <cstdint>

namespace bsk::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;      // floats in a vector
constexpr int kMaxVectors = 4;  // vectors of lanes that a micro-kernel holds: 6 x 4 accumulators
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kMaxVectors = 2;
#else
constexpr int kWidth = 4;
constexpr int kMaxVectors = 2;
#endif

typedef float Vec __attribute__((vector_size(4 * kWidth), may_alias));
typedef float UnalignedVec __attribute__((vector_size(4 * kWidth), may_alias, aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(4 * kWidth), may_alias));
typedef uint32_t UintVec __attribute__((vector_size(4 * kWidth), may_alias));

#define BSK_INLINE inline __attribute__((always_inline))

constexpr float kInf = __builtin_inff();

BSK_INLINE Vec broadcast(float x) { return x - Vec{}; }
BSK_INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
BSK_INLINE void store(float* p, Vec x) { *reinterpret_cast<Vec*>(p) = x; }
BSK_INLINE Vec load_unaligned(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
BSK_INLINE void store_unaligned(float* p, Vec x) { *reinterpret_cast<UnalignedVec*>(p) = x; }

// a * b + c, with one rounding where the instruction set has it.
BSK_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

BSK_INLINE float multiply_add(float a, float b, float c) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// The larger; b where they cannot be compared.
BSK_INLINE Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

BSK_INLINE Vec select(IntVec condition, Vec yes, Vec no) { return condition ? yes : no; }

// All ones in lane i where bit i of `bits` is set.
BSK_INLINE IntVec lanes_of(uint32_t bits) {
  IntVec bit;
  for (int i = 0; i < kWidth; ++i) bit[i] = 1 << i;
  const IntVec all = static_cast<int32_t>(bits) - IntVec{};
  return (all & bit) != 0;
}

BSK_INLINE bool any_lane(UintVec x) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)x, (__m512i)x) != 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)x, (__m256i)x) == 0;
#else
  uint32_t any = 0;
  for (int i = 0; i < kWidth; ++i) any |= x[i];
  return any != 0;
#endif
}

BSK_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}

BSK_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

}  // namespace
}  // namespace bsk::cpu
