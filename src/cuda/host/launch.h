// One kernel launch on the caller's stream.
#pragma once

#include <cstdint>

#include "src/cuda/host/device_kernel.h"

namespace bsk::cuda {

struct LaunchShape {
  uint32_t grid[3] = {1, 1, 1};     // in CTAs, also where CTAs form clusters
  uint32_t threads = 0;             // per CTA
  uint32_t cluster[3] = {1, 1, 1};  // up to 16 CTAs; more than 8 may not fit every GPU
  int64_t shared_bytes = 0;         // dynamic shared memory per CTA
  // Lets the kernel start while the one before it on the stream drains. It must then execute
  // griddepcontrol.wait before its first read of, and its first write to, global memory that an
  // earlier kernel may touch.
  bool programmatic_dependent_launch = false;
};

// Enqueues the kernel on a stream of `device`, whose primary context must be current
// (ScopedDevice); `params` points at its one __grid_constant__ parameter. Allocates nothing and
// waits for nothing (with EngineSettings::debug_checks it waits for the result, unless the stream
// is being captured).
void launch(DeviceKernel& kernel, int32_t device, void* stream, const LaunchShape& shape,
            const void* params);

// A control of the bench, for the whole process: with false no launch gets the attribute for
// programmatic dependent launch, so that the nodes of a graph captured meanwhile do not overlap and
// a replay gives the time of one kernel by itself. Results are the same. True at the start.
void set_programmatic_dependent_launch(bool enabled);

// `params` is the Config's Params, the same struct on the host and on the device.
template <class Params>
void launch(DeviceKernel& kernel, int32_t device, void* stream, const LaunchShape& shape,
            const Params& params) {
  launch(kernel, device, stream, shape, static_cast<const void*>(&params));
}

}  // namespace bsk::cuda
