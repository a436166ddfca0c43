// libcuda, opened at run time: its entry points, its errors as sentences, its devices and their
// contexts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bsk/attention.h"
#include "src/cuda/host/cuda_api.h"

namespace bsk::cuda {

struct DriverStatus {
  bool available = false;
  std::string sentence;  // what is here, or why there is no driver and what to do
  int32_t version = 0;   // of CUDA that the driver supports: 13000 = 13.0; 0 = no driver
  int32_t devices = 0;
};

// Opens libcuda on the first call and never throws. Where it failed, a later call tries again.
DriverStatus driver_status();

// Whether libcuda is open; opens nothing.
bool driver_opened();

// The driver's functions; throws Error(kRuntime) with driver_status().sentence where there is none.
const api::Functions& driver();

// Throws Error(kRuntime) "<call>: CUDA_ERROR_NAME (text). <what was being done>".
[[noreturn]] void fail_call(api::Result result, const char* call, std::string_view doing);

inline void check(api::Result result, const char* call, std::string_view doing) {
  if (result != api::kSuccess) fail_call(result, call, doing);
}

constexpr int32_t kMaxDevices = 64;  // of one process

struct CudaDevice {
  int32_t index = 0;  // among the devices of this process
  api::Device handle = 0;
  DeviceProperties properties;
  int64_t memory_bytes = 0;
  int64_t l2_bytes = 0;
};

// Device `index` of this process (CUDA_VISIBLE_DEVICES counts); queried once per process, from any
// thread, without making a context.
const CudaDevice& cuda_device(int32_t index);

// Makes the primary context of a device current on this thread for the life of the object: the
// context that CUDA's runtime, and so torch, uses. Costs one driver call where it is current
// already, as it is on torch's threads.
class ScopedDevice {
 public:
  explicit ScopedDevice(const CudaDevice& device);
  ~ScopedDevice();
  ScopedDevice(const ScopedDevice&) = delete;
  ScopedDevice& operator=(const ScopedDevice&) = delete;

 private:
  bool pushed_ = false;
};

// Lets this thread load modules and query the device while one of its streams, or another thread's,
// is being captured into a CUDA graph. Nothing done under it is recorded into the graph.
class RelaxedCapture {
 public:
  RelaxedCapture();
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  api::CaptureMode previous_ = api::kCaptureRelaxed;
};

}  // namespace bsk::cuda
