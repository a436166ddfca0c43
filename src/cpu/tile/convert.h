// Rows of fp16, bf16, fp64 -> fp32, and fp32 -> fp16, bf16 (to nearest, ties to even).
#pragma once

#include "src/cpu/tile.h"
#include "src/cpu/tile/simd.h"

namespace bsk::cpu {
namespace {

typedef uint16_t HalfVec __attribute__((vector_size(2 * kWidth), may_alias));
typedef uint16_t UnalignedHalfVec __attribute__((vector_size(2 * kWidth), may_alias, aligned(2)));

BSK_INLINE int64_t element_bytes(Element element) {
  switch (element) {
    case Element::kFloat64: return 8;
    case Element::kFloat32: return 4;
    case Element::kFloat16:
    case Element::kBFloat16: return 2;
    case Element::kBool: return 1;
  }
  return 1;
}

BSK_INLINE UintVec widen(HalfVec x) { return __builtin_convertvector(x, UintVec); }
BSK_INLINE HalfVec narrow(UintVec x) { return __builtin_convertvector(x, HalfVec); }

BSK_INLINE Vec from_bfloat16(HalfVec x) { return (Vec)(widen(x) << 16); }

BSK_INLINE Vec from_float16(HalfVec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps((__m256i)x);
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps((__m128i)x);
#else
  const UintVec bits = widen(x);
  // The exponent is moved from fp16's bias (15) to fp32's (127) by a product, which also makes
  // fp16's denormals normal.
  const Vec scaled = (Vec)((bits & 0x7fff) << 13) * 0x1p112f;
  const UintVec special = ((bits & 0x7c00) == 0x7c00) & 0x7f800000;
  return (Vec)((UintVec)scaled | special | ((bits & 0x8000) << 16));
#endif
}

BSK_INLINE HalfVec to_bfloat16(Vec x) {
  const UintVec bits = (UintVec)x;
  const UintVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UintVec quiet_nan = ((bits >> 16) & 0x8000) | 0x7fc0;
  const IntVec is_nan = x != x;
  return narrow(is_nan ? quiet_nan : rounded);
}

BSK_INLINE HalfVec to_float16(Vec x) {
#if defined(__AVX512F__)
  return (HalfVec)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (HalfVec)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
  const UintVec sign = ((UintVec)x >> 16) & 0x8000;
  const UintVec magnitude = (UintVec)x & 0x7fffffff;
  // Below 2^-14 the spacing is 2^-24, which is that of 0.5: adding 0.5 rounds there.
  const UintVec denormal = (UintVec)((Vec)magnitude + 0.5f) - 0x3f000000;
  const UintVec normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  const UintVec finite = magnitude < 0x38800000 ? denormal : normal;
  const UintVec special = magnitude > 0x7f800000 ? UintVec{} + 0x7e00 : UintVec{} + 0x7c00;
  return narrow(sign | (magnitude >= 0x47800000 ? special : finite));
#endif
}

BSK_INLINE Vec from_half(Element element, HalfVec x) {
  return element == Element::kBFloat16 ? from_bfloat16(x) : from_float16(x);
}

// `count` contiguous elements as floats; `to` may be unaligned.
void convert_row(Element element, const char* from, int64_t count, float* to) {
  if (element == Element::kFloat32) {
    __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  if (element == Element::kFloat64) {
    for (int64_t i = 0; i < count; ++i) {
      to[i] = static_cast<float>(reinterpret_cast<const double*>(from)[i]);
    }
    return;
  }
  const auto* halves = reinterpret_cast<const uint16_t*>(from);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    store_unaligned(to + i,
                    from_half(element, *reinterpret_cast<const UnalignedHalfVec*>(halves + i)));
  }
  if (i == count) return;
  HalfVec tail{};
  for (int64_t j = i; j < count; ++j) tail[j - i] = halves[j];
  const Vec converted = from_half(element, tail);
  for (int64_t j = i; j < count; ++j) to[j] = converted[j - i];
}

// The reverse, for an output row; `element` is fp32, fp16 or bf16.
void store_row(Element element, const float* from, int64_t count, char* to) {
  if (element == Element::kFloat32) {
    __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  auto* halves = reinterpret_cast<uint16_t*>(to);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vec x = load_unaligned(from + i);
    *reinterpret_cast<UnalignedHalfVec*>(halves + i) =
        element == Element::kBFloat16 ? to_bfloat16(x) : to_float16(x);
  }
  if (i == count) return;
  Vec tail{};
  for (int64_t j = i; j < count; ++j) tail[j - i] = from[j];
  const HalfVec converted = element == Element::kBFloat16 ? to_bfloat16(tail) : to_float16(tail);
  for (int64_t j = i; j < count; ++j) halves[j] = converted[j - i];
}

// One element with any stride, as float.
BSK_INLINE float load_element(Element element, const char* from) {
  float x = 0.0f;
  convert_row(element, from, 1, &x);
  return x;
}

}  // namespace
}  // namespace bsk::cpu
