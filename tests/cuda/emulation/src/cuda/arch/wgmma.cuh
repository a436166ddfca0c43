// The emulated instructions of src/cuda/arch/wgmma.cuh.
#pragma once

#include "tests/cuda/emulation/machine.h"

namespace bsk::arch {

inline void mma_fence() { emulation::machine().mma_fence(); }
inline void mma_commit() { emulation::machine().mma_commit(); }
template <int kPending>
void mma_wait() {
  emulation::machine().mma_wait(kPending);
}

template <Element kElement, int kN>
void mma_shared(float (&d)[kN / 2], uint64_t a_descriptor, uint64_t b_descriptor, bool accumulate) {
  emulation::Multiply multiply;
  multiply.element = kElement;
  multiply.columns = kN;
  multiply.a_descriptor = a_descriptor;
  multiply.b_descriptor = b_descriptor;
  multiply.accumulate = accumulate;
  emulation::machine().mma_issue(multiply, d, nullptr);
}

template <Element kElement, int kN>
void mma_registers(float (&d)[kN / 2], const uint32_t* a, uint64_t b_descriptor, bool accumulate) {
  emulation::Multiply multiply;
  multiply.a_in_registers = true;
  multiply.element = kElement;
  multiply.columns = kN;
  multiply.b_descriptor = b_descriptor;
  multiply.accumulate = accumulate;
  emulation::machine().mma_issue(multiply, d, a);
}

template <int kCount>
void mma_fence_registers(float (&)[kCount]) {}

}  // namespace bsk::arch
