// Descriptors of matrices in shared memory for wgmma (PTX ISA 9.7.15.5.1), 128-byte swizzle.
//
// A tile of R rows and C columns is stored as ceil(C / 64) column chunks, each R rows of 128 bytes,
// each eight rows swizzled among themselves: what one TMA box of 64 columns writes.
#pragma once

#include "src/cuda/arch/types.h"

namespace bsk::tile {

namespace detail {
constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
constexpr int kEightRowsBytes = 8 * arch::kSwizzleBytes;

__device__ __forceinline__ uint64_t encode(uint32_t address, int leading_bytes, int stride_bytes) {
  return kSwizzle128 | (static_cast<uint64_t>((address & 0x3ffff) >> 4)) |
         (static_cast<uint64_t>(leading_bytes >> 4) << 16) |
         (static_cast<uint64_t>(stride_bytes >> 4) << 32);
}
}  // namespace detail

// Byte offset of 16 columns number `step` in a tile whose K is contiguous: the start address may
// point inside the swizzled 128 bytes, since the swizzle acts on address bits.
template <int kTileRows>
__device__ __forceinline__ constexpr int column_step_bytes(int step) {
  return (step / 4) * kTileRows * arch::kSwizzleBytes + (step % 4) * 32;
}

// Q or K: rows are the M or N of the product, columns its K.
__device__ __forceinline__ uint64_t k_major(uint32_t address) {
  return detail::encode(address, 16, detail::kEightRowsBytes);  // the leading offset is not used
}

// V: rows are the K of the product, columns its N; chunks of 64 columns lie kTileRows rows apart.
template <int kTileRows>
__device__ __forceinline__ uint64_t n_major(uint32_t address) {
  return detail::encode(address, kTileRows * arch::kSwizzleBytes, detail::kEightRowsBytes);
}

// The same descriptor with its start moved; the sum stays inside the address field.
__device__ __forceinline__ uint64_t advance(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}

}  // namespace bsk::tile
