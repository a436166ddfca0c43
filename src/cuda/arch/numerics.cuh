// Arithmetic that is one instruction on the GPU.
#pragma once

#include "src/cuda/arch/types.h"

namespace bsk::arch {

// PTX ISA 9.7.3: ex2.approx.ftz.f32 (2 ulp; exp2(-inf) = 0).
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// PTX ISA 9.7.3: lg2.approx.ftz.f32.
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// PTX ISA 9.7.3: rcp.approx.ftz.f32.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x, the nearest float: for x and 1 / x that are normal numbers.
__device__ __forceinline__ float reciprocal(float x) {
  const float y = reciprocal_approx(x);
  return __fmaf_rn(__fmaf_rn(-x, y, 1.0f), y, y);
}

// To the last bit or two, at several instructions.
__device__ __forceinline__ float exponential(float x) { return expf(x); }

__device__ __forceinline__ float fused_multiply_add(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
// PTX ISA 9.7.3: max.NaN.f32: NaN if either is NaN, so that a NaN score reaches the whole row.
__device__ __forceinline__ float maximum(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
// DPX: the highest of three, one instruction (VIMNMX3).
__device__ __forceinline__ int highest_of(int a, int b, int c) { return __vimax3_s32(a, b, c); }
__device__ __forceinline__ uint32_t float_bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float bits_float(uint32_t x) { return __uint_as_float(x); }

// `value`, computed after `x` is.
__device__ __forceinline__ int order_after(int value, float x) {
  return float_bits(x) == kNeverComputed ? value ^ 1 : value;
}

// PTX ISA 9.7.9: cvt.rn.{f16x2,bf16x2}.f32; `low` goes to the lower half.
template <Element kElement>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t packed;
  if constexpr (kElement == Element::kFloat16) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

// PTX ISA 9.7.9: cvt.f32.f16.
__device__ __forceinline__ float half_to_float(uint16_t bits) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
}
__device__ __forceinline__ float bfloat16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// PTX ISA 9.7.9: ld.v2.b32; 8-byte aligned.
__device__ __forceinline__ void load_8_bytes(const void* source, uint32_t (&words)[2]) {
  const uint2 loaded = *static_cast<const uint2*>(source);
  words[0] = loaded.x;
  words[1] = loaded.y;
}

__device__ __forceinline__ void load_8_bytes(const void* source, float (&words)[2]) {
  const float2 loaded = *static_cast<const float2*>(source);
  words[0] = loaded.x;
  words[1] = loaded.y;
}

// PTX ISA 9.7.9: ld.v4.b32; 16-byte aligned.
__device__ __forceinline__ void load_16_bytes(const void* source, uint32_t (&words)[4]) {
  const uint4 loaded = *static_cast<const uint4*>(source);
  words[0] = loaded.x;
  words[1] = loaded.y;
  words[2] = loaded.z;
  words[3] = loaded.w;
}

__device__ __forceinline__ void load_16_bytes(const void* source, float (&words)[4]) {
  const float4 loaded = *static_cast<const float4*>(source);
  words[0] = loaded.x;
  words[1] = loaded.y;
  words[2] = loaded.z;
  words[3] = loaded.w;
}

// PTX ISA 9.7.9: st.v2.b32; 8-byte aligned.
__device__ __forceinline__ void store_8_bytes(void* destination, uint32_t a, uint32_t b) {
  *static_cast<uint2*>(destination) = make_uint2(a, b);
}

// PTX ISA 9.7.9: st.global.v4.b32; 16-byte aligned.
__device__ __forceinline__ void store_16_bytes(void* destination, uint32_t a, uint32_t b,
                                               uint32_t c, uint32_t d) {
  *static_cast<uint4*>(destination) = make_uint4(a, b, c, d);
}

}  // namespace bsk::arch
