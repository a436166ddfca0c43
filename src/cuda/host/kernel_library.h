// Where a kernel's machine code comes from: the cubins of the package, the disk cache, the
// compiler, in this order.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "src/cuda/host/cuda_api.h"

namespace bsk::cuda {

// One configuration of one kernel. The translation unit made of it is
//
//   #include "<source>"
//   extern "C" __global__ void __launch_bounds__(<config>::kThreads, <config>::kMinBlocks)
//   <name>(const __grid_constant__ <config>::Params params) { <entry><<config>>(params); }
//
// so that profilers show the kernel's own name.
struct KernelRequest {
  std::string name;    // a C identifier: "sm90_attention_forward_d64_fp16"
  std::string source;  // the header, from the repository's root:
                       // "src/cuda/sm90/attention_forward/kernel.cuh"
  std::string
      entry;  // template <class Config> __device__ void entry(const typename Config::Params&)
  std::string config;        // a C++ type: "bsk::sm90::ForwardConfig<64, 128, bsk::Fp16>"
  std::string architecture;  // "90a"

  bool operator==(const KernelRequest&) const = default;
};

std::string translation_unit(const KernelRequest& request);

enum class KernelOrigin { kEmbedded, kDiskCache, kCompiled };
const char* to_string(KernelOrigin origin);

struct KernelCode {
  std::string cubin;
  KernelOrigin origin = KernelOrigin::kCompiled;
  double seconds = 0;  // that finding or compiling it took
  std::string log;     // the compiler's, where it ran
};

// The machine code of a request, under the settings in force; needs no GPU. Threads that ask for
// the same request at the same time compile it once; processes may compile it once each, and the
// last one's file stays.
KernelCode kernel_code(const KernelRequest& request);

// A kernel as launches use it: loaded at the first `get` on a device, once per process and device.
class DeviceKernel {
 public:
  explicit DeviceKernel(KernelRequest request);
  ~DeviceKernel();
  DeviceKernel(const DeviceKernel&) = delete;
  DeviceKernel& operator=(const DeviceKernel&) = delete;

  // The function in `device`'s primary context, which must be current (ScopedDevice), with
  // `shared_bytes` of dynamic shared memory allowed. One atomic load once it is there. Under graph
  // capture it loads all the same: nothing of that is recorded, but the call takes as long as the
  // kernel's loading or compiling does.
  api::Function get(int32_t device, int64_t shared_bytes);

  const KernelRequest& request() const { return request_; }

 private:
  struct Loaded;
  Loaded& load(int32_t device, int64_t shared_bytes);

  static constexpr int kMaxDevices = 64;
  const KernelRequest request_;
  std::mutex mutex_;
  std::atomic<Loaded*> loaded_[kMaxDevices] = {};
  std::vector<std::unique_ptr<Loaded>>
      all_loaded_;  // nothing is unloaded: a captured graph may still use it
};

// The process-wide DeviceKernel of a request (one look-up in a table; keep the reference).
DeviceKernel& device_kernel(const KernelRequest& request);

}  // namespace bsk::cuda
