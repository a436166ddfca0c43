// The Hopper attention kernels, as src/attention offers them.
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
