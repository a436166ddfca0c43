// Builds a block mask by the kernels' own source under the emulator.
#pragma once

#include "src/cuda/sm90/block_mask_build/launch.h"
#include "tests/cuda/emulation/machine.h"

namespace bsk::test {

// What sm90::block_mask_build::build does on a GPU. A device-side assertion throws
// emulation::Fault with its message.
void build_emulated(const sm90::block_mask_build::Output& out,
                    const sm90::block_mask_build::Source& source, uint32_t seed = 1);

void pooled_scores_emulated(const sm90::block_mask_build::PooledProductParams& params,
                            uint32_t seed = 1);

}  // namespace bsk::test
