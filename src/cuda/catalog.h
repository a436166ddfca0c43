// The kernel configurations that the documentation names: embedded in the wheel, compiled by `bsk
// compile`.
#pragma once

#include <vector>

#include "src/cuda/host/kernel_library.h"

namespace bsk::cuda {

// Each kernel's folder lists its own; catalog.cc joins the lists.
std::vector<KernelRequest> documented_requests();

}  // namespace bsk::cuda
