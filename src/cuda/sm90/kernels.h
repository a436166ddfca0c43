// The Hopper attention kernels, in the order in which src/attention offers them. They have been
// compiled for sm_90a and emulated, never yet run on a GPU.
#pragma once

#include "src/attention/kernel.h"

namespace bsk::sm90 {

namespace attention_forward_small {
extern const Kernel kKernel;  // problems of one wave
}
namespace attention_forward_split {
extern const Kernel kKernel;  // few queries against many keys
}
namespace attention_forward {
extern const Kernel kKernel;  // everything else
}

}  // namespace bsk::sm90
