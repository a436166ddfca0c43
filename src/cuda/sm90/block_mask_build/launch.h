// The host's side of the builders: which kernel, what launch. Pure functions but `build`; tests and
// the emulator use them as well.
#pragma once

#include <variant>
#include <vector>

#include "src/cuda/host/kernel_library.h"
#include "src/cuda/host/launch.h"
#include "src/cuda/sm90/block_mask_build/config.h"

namespace bsk::sm90::block_mask_build {

using Source = std::variant<Dense, Scores, Lists, Window, Strided, Segments, Ids, CompressedRows,
                            VerticalSlash>;

// Whether the kernels take a mask of these sizes: the block counts, lengths and, for Scores, the
// width of a row.
bool takes(const Output& out, const Source& source);

// How many IdRange a mask of Ids needs as scratch memory.
int64_t id_ranges(const Output& out);
IdRangesParams id_ranges_params(const Output& out, const Ids& source);

// One kernel and its launch.
struct Launch {
  cuda::KernelRequest request;
  cuda::LaunchShape shape;
};
Launch id_ranges_launch(const Output& out);  // comes before the other where the source is Ids
Launch launch_of(const Output& out, const Source& source);

// Enqueues the launches. False, with nothing enqueued, where this build or machine has no machine
// code for them: a notice says why, and torch operations have to do it.
bool build(const Output& out, const Source& source, int32_t device, void* stream);

// Block scores: pools Q and K, then multiplies. As `build`; the second also needs `takes_pool`.
bool takes_pool(const PoolParams& params);
Launch pool_launch(const PoolParams& params);
Launch pooled_product_launch(const PooledProductParams& params);
bool pooled_scores(const PooledProductParams& params, int32_t device, void* stream);

// The configurations embedded in the package.
std::vector<cuda::KernelRequest> documented_requests();

}  // namespace bsk::sm90::block_mask_build
