// The emulated instructions of src/cuda/arch/mma.cuh.
#pragma once

#include "src/cuda/arch/core.cuh"
#include "src/cuda/arch/numerics.cuh"
#include "tests/cuda/emulation/machine.h"

namespace bsk::arch {

template <Element kElement>
void mma_warp(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
    static float of(uint32_t pair, int i) {
      const auto bits = static_cast<uint16_t>(pair >> 16 * i);
      return kElement == Element::kFloat16 ? half_to_float(bits) : bfloat16_to_float(bits);
    }
  };
  const Operands mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const auto all = emulation::machine().gather(reinterpret_cast<uint64_t>(&mine));
  const auto lane_has = [&all](int lane) -> const Operands& {
    return *reinterpret_cast<const Operands*>(all[lane]);
  };
  const int lane = thread_index() % kWarpThreads;
  for (int i = 0; i < 4; ++i) {
    const int column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int pair = k % 8 / 2;  // which lane of four has it
      d[i] += Operands::of(lane_has(lane / 4 * 4 + pair).a[k / 8 * 2 + i / 2], k % 2) *
              Operands::of(lane_has(column * 4 + pair).b[k / 8], k % 2);
    }
  }
  ++emulation::machine().warp_multiplies_run;
  sync_warp();  // nobody looks at this lane's operands any more
}

}  // namespace bsk::arch
