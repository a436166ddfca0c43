#include "src/cuda/host/launch.h"

#include <atomic>

#include "bsk/error.h"
#include "src/cuda/host/driver.h"

namespace bsk::cuda {
namespace {

std::string text(const uint32_t (&size)[3]) {
  std::string result = std::to_string(size[0]);
  for (int i = 1; i < 3; ++i) result.append(" x ").append(std::to_string(size[i]));
  return result;
}

std::string doing(const DeviceKernel& kernel, const LaunchShape& shape) {
  return "Launching " + kernel.request().name + " with grid " + text(shape.grid) + ", " +
         std::to_string(shape.threads) + " threads, clusters of " + text(shape.cluster) + ", " +
         std::to_string(shape.shared_bytes) + " bytes of shared memory.";
}

uint32_t cluster_ctas(const LaunchShape& shape) {
  return shape.cluster[0] * shape.cluster[1] * shape.cluster[2];
}

// Asked after a launch that failed: cuLaunchKernelEx answers all of these by the same
// CUDA_ERROR_INVALID_VALUE.
void check_shape(const DeviceKernel& kernel, const LaunchShape& shape) {
  const auto refuse = [&](const std::string& rule) {
    throw Error(ErrorKind::kValue, rule + ". " + doing(kernel, shape));
  };
  if (shape.threads < 1 || shape.threads > 1024) refuse("A CTA has 1 to 1024 threads");
  for (int i = 0; i < 3; ++i) {
    if (shape.grid[i] < 1 || (i > 0 && shape.grid[i] > 65535))
      refuse("A grid has 1 to 65535 CTAs in y and z");
    if (shape.cluster[i] < 1 || shape.grid[i] % shape.cluster[i] != 0) {
      refuse("A grid is a whole number of clusters in each dimension");
    }
  }
  if (cluster_ctas(shape) > 16) refuse("A cluster has at most 16 CTAs");
  if (shape.shared_bytes < 0) refuse("Shared memory is not negative");
}

std::atomic<bool> programmatic_dependent_launch_enabled = true;

}  // namespace

void set_programmatic_dependent_launch(bool enabled) {
  programmatic_dependent_launch_enabled.store(enabled, std::memory_order_relaxed);
}

void launch(DeviceKernel& kernel, int32_t device, void* stream, const LaunchShape& shape,
            const void* params) {
  const uint32_t ctas = cluster_ctas(shape);
  const DeviceKernel::Ready ready = kernel.get(device, shape.shared_bytes, ctas);

  api::LaunchAttribute attributes[2];
  unsigned int attribute_count = 0;
  if (ctas > 1) {
    api::LaunchAttribute& attribute = attributes[attribute_count++];
    attribute.id = api::kClusterDimension;
    attribute.value.cluster_dim = {shape.cluster[0], shape.cluster[1], shape.cluster[2]};
  }
  if (shape.programmatic_dependent_launch &&
      programmatic_dependent_launch_enabled.load(std::memory_order_relaxed)) {
    api::LaunchAttribute& attribute = attributes[attribute_count++];
    attribute.id = api::kProgrammaticStreamSerialization;
    attribute.value.programmatic_stream_serialization_allowed = 1;
  }
  api::LaunchConfig config;
  config.grid_x = shape.grid[0];
  config.grid_y = shape.grid[1];
  config.grid_z = shape.grid[2];
  config.block_x = shape.threads;
  config.block_y = 1;
  config.block_z = 1;
  config.shared_bytes = static_cast<unsigned int>(shape.shared_bytes);
  config.stream = static_cast<api::Stream>(stream);
  config.attributes = attributes;
  config.attribute_count = attribute_count;
  void* arguments[1] = {const_cast<void*>(params)};
  const api::Result result = driver().launch_kernel_ex(&config, ready.function, arguments, nullptr);
  if (result != api::kSuccess) {
    check_shape(kernel, shape);
    fail_call(result, "cuLaunchKernelEx", doing(kernel, shape));
  }

  if (!ready.debug_checks) return;
  api::CaptureStatus capture = api::kCaptureNone;
  check(driver().stream_is_capturing(config.stream, &capture), "cuStreamIsCapturing",
        doing(kernel, shape));
  if (capture != api::kCaptureNone) return;
  check(driver().stream_synchronize(config.stream), "cuStreamSynchronize",
        "Waiting, in debug mode, for " + kernel.request().name + ".");
}

}  // namespace bsk::cuda
