// A kernel as launches use it: machine code that is loaded on the devices that run it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "src/cuda/host/driver.h"
#include "src/cuda/host/kernel_library.h"

namespace bsk::cuda {

// Loaded at the first `get` on a device, once per process and device; loaded anew where the
// engine's settings ask for other machine code.
class DeviceKernel {
 public:
  explicit DeviceKernel(KernelRequest request);
  ~DeviceKernel();
  DeviceKernel(const DeviceKernel&) = delete;
  DeviceKernel& operator=(const DeviceKernel&) = delete;

  // The function in `device`'s primary context, which must be current (ScopedDevice), with
  // `shared_bytes` of dynamic shared memory and clusters of `cluster_ctas` allowed. A few atomic
  // loads once it is there. Under graph capture it loads all the same: nothing of that is recorded,
  // but the call takes as long as finding or compiling the machine code does.
  struct Ready {
    api::Function function;
    bool debug_checks;  // compiled with them
  };
  Ready get(int32_t device, int64_t shared_bytes, uint32_t cluster_ctas = 1);

  // What every GPU with clusters can run; more, where it fits, is allowed per kernel.
  static constexpr uint32_t kPortableClusterCtas = 8;

  const KernelRequest& request() const { return request_; }

 private:
  struct Loaded;
  Loaded& load(int32_t device);
  void allow_shared(Loaded& loaded, int32_t device, int64_t shared_bytes);
  void allow_large_clusters(Loaded& loaded, int32_t device);

  const KernelRequest request_;
  std::mutex mutex_;
  std::atomic<Loaded*> loaded_[kMaxDevices] = {};
  std::vector<std::unique_ptr<Loaded>>
      all_loaded_;  // nothing is unloaded: a captured graph may still use it
};

// The process-wide DeviceKernel of a request (one look-up in a table; keep the reference).
DeviceKernel& device_kernel(const KernelRequest& request);

}  // namespace bsk::cuda
