// Matrix multiply of one warp, PTX ISA 9.7.15.5 (mma.sync.m16n8k16): D[16, 8] += A[16, 16] * B[16,
// 8], fp32 sums.
//
// Lane l holds d[i] = D[l/4 + 8(i/2), 2(l%4) + i%2]; of A pairs of columns, rows l/4 and l/4 + 8 of
// columns 0..7, then of columns 8..15; of B pairs of rows, column l/4 of rows 0..7 and of 8..15.
// (CUTLASS's wrapper includes CUDA's own headers; core.cuh says why that won't do.)
#pragma once

#include "src/cuda/arch/types.h"

namespace bsk::arch {

template <Element kElement>
__device__ __forceinline__ void mma_warp(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  if constexpr (kElement == Element::kFloat16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

}  // namespace bsk::arch
