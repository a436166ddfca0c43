// The CPU's kernels, in the order in which src/attention offers them.
#pragma once

#include "src/attention/kernel.h"

namespace bsk {

extern const Kernel kCpuAttentionForward;  // blocked, threaded, SIMD: what a call on a CPU gets
extern const Kernel kCpuReference;         // fp64, plain loops: the oracle of every test

}  // namespace bsk
