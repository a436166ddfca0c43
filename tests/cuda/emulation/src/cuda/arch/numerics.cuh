// The emulated instructions of src/cuda/arch/numerics.cuh.
#pragma once

#include <cmath>
#include <cstring>

#include "src/cuda/arch/types.h"

namespace bsk::arch {

inline float exp2_approx(float x) { return std::exp2(x); }
inline float log2_approx(float x) { return std::log2(x); }
inline float reciprocal_approx(float x) { return 1.0f / x; }
inline float reciprocal(float x) { return 1.0f / x; }
inline float exponential(float x) { return std::exp(x); }
inline float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline float maximum(float a, float b) { return a != a || b != b ? NAN : std::fmax(a, b); }
inline int highest_of(int a, int b, int c) {
  const int two = a > b ? a : b;
  return two > c ? two : c;
}
inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline int order_after(int value, float x) {
  return float_bits(x) == kNeverComputed ? value ^ 1 : value;
}
inline float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float half_to_float(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<float>(half);
}
inline float bfloat16_to_float(uint16_t bits) {
  return bits_float(static_cast<uint32_t>(bits) << 16);
}
inline uint16_t float_to_half(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}
inline uint16_t float_to_bfloat16(float x) {  // round to nearest even
  const uint32_t bits = float_bits(x);
  if (x != x) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <Element kElement>
uint32_t pack(float low, float high) {
  if constexpr (kElement == Element::kFloat16) {
    return float_to_half(low) | static_cast<uint32_t>(float_to_half(high)) << 16;
  } else {
    return float_to_bfloat16(low) | static_cast<uint32_t>(float_to_bfloat16(high)) << 16;
  }
}

template <class T>
void load_8_bytes(const void* source, T (&words)[2]) {
  std::memcpy(words, source, 8);
}
template <class T>
void load_16_bytes(const void* source, T (&words)[4]) {
  std::memcpy(words, source, 16);
}
inline void store_8_bytes(void* destination, uint32_t a, uint32_t b) {
  const uint32_t words[2] = {a, b};
  std::memcpy(destination, words, 8);
}
inline void store_16_bytes(void* destination, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const uint32_t words[4] = {a, b, c, d};
  std::memcpy(destination, words, 16);
}

}  // namespace bsk::arch
