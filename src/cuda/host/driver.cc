#include "src/cuda/host/driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <type_traits>

#include "bsk/error.h"
#include "src/cuda/host/engine.h"

namespace bsk::cuda {
namespace {

// The interface version asked of cuGetProcAddress, and the oldest driver that has all of it.
constexpr int kCudaVersion = 12000;

struct Driver {
  api::Functions functions;
  std::string path;
  int version = 0;
  int devices = 0;
};

std::mutex g_mutex;  // opening the driver, querying a device, retaining a context
std::atomic<Driver*> g_driver{nullptr};  // set once, never freed
std::array<std::atomic<CudaDevice*>, kMaxDevices> g_devices{};
std::array<std::atomic<api::Context>, kMaxDevices> g_primary_contexts{};

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string error_text(const api::Functions& functions, api::Result result) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (functions.get_error_name == nullptr ||
      functions.get_error_name(result, &name) != api::kSuccess || name == nullptr) {
    return "CUDA error " + std::to_string(result);
  }
  if (functions.get_error_string(result, &text) != api::kSuccess || text == nullptr) return name;
  return std::string(name) + " (" + text + ")";
}

// Fills `driver`; returns why it could not, or "".
std::string open_driver(const std::string& path, Driver& driver) {
  driver.path = path.empty() ? "libcuda.so.1" : path;
  void* const library = dlopen(driver.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = dlerror();
    return "No NVIDIA driver: " + driver.path + " cannot be opened (" +
           (reason != nullptr ? reason : "no reason given") +
           "). Install the driver, or start the container with GPU access (--gpus all); the CPU "
           "backend needs neither.";
  }
  const auto get_proc_address =
      reinterpret_cast<api::GetProcAddress>(dlsym(library, "cuGetProcAddress_v2"));
  if (get_proc_address == nullptr) {
    return "The NVIDIA driver at " + driver.path +
           " is older than CUDA 12.0, the oldest that this library works with. Update the driver.";
  }
  std::string missing;
  const auto find = [&](const char* symbol, auto& member) {
    void* function = nullptr;
    int status = 0;
    if (get_proc_address(symbol, &function, kCudaVersion, api::kProcAddressLegacyStream, &status) !=
            api::kSuccess ||
        status != 0) {
      function = nullptr;
    }
    if (function == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(symbol);
    member = reinterpret_cast<std::remove_reference_t<decltype(member)>>(function);
  };
#define BSK_FIND(member, symbol, parameters) find(symbol, driver.functions.member);
  BSK_CUDA_ENTRY_POINTS(BSK_FIND)
#undef BSK_FIND
  if (!missing.empty()) {
    return "The NVIDIA driver at " + driver.path + " lacks " + missing +
           ", which CUDA 12.0 has. Update the driver.";
  }
  const api::Result result = driver.functions.init(0);
  if (result == api::kErrorNoDevice) {
    return "The NVIDIA driver at " + driver.path +
           " sees no GPU. Check nvidia-smi and CUDA_VISIBLE_DEVICES.";
  }
  if (result == api::kSuccess &&
      driver.functions.driver_get_version(&driver.version) == api::kSuccess &&
      driver.functions.device_get_count(&driver.devices) == api::kSuccess) {
    return "";
  }
  return "The NVIDIA driver at " + driver.path + " does not start: cuInit gave " +
         error_text(driver.functions, result) + ". Check nvidia-smi.";
}

// The driver, or nullptr with the reason in `why`.
Driver* opened_driver(std::string* why) {
  if (Driver* const driver = g_driver.load(std::memory_order_acquire)) return driver;
  const std::string path = engine_settings().driver_library;
  const std::lock_guard lock(g_mutex);
  if (Driver* const driver = g_driver.load(std::memory_order_acquire)) return driver;
  auto driver = std::make_unique<Driver>();
  const std::string reason = open_driver(path, *driver);
  if (!reason.empty()) {
    if (why != nullptr) *why = reason;
    return nullptr;
  }
  g_driver.store(driver.get(), std::memory_order_release);
  return driver.release();
}

int device_attribute(api::Device device, api::DeviceAttribute attribute) {
  int value = 0;
  check(driver().device_get_attribute(&value, attribute, device), "cuDeviceGetAttribute",
        "Asking for attribute " + std::to_string(attribute) + " of device " +
            std::to_string(device) + ".");
  return value;
}

std::unique_ptr<CudaDevice> query_device(int32_t index) {
  const std::string doing = "Querying GPU " + std::to_string(index) + ".";
  auto device = std::make_unique<CudaDevice>();
  device->index = index;
  check(driver().device_get(&device->handle, index), "cuDeviceGet", doing);
  char name[256] = {};
  check(driver().device_get_name(name, sizeof(name) - 1, device->handle), "cuDeviceGetName", doing);
  size_t bytes = 0;
  check(driver().device_total_mem(&bytes, device->handle), "cuDeviceTotalMem", doing);
  device->memory_bytes = static_cast<int64_t>(bytes);
  device->l2_bytes = device_attribute(device->handle, api::kL2CacheSize);
  DeviceProperties& properties = device->properties;
  properties.type = DeviceType::kCuda;
  properties.name = name;
  properties.compute_capability =
      device_attribute(device->handle, api::kComputeCapabilityMajor) * 10 +
      device_attribute(device->handle, api::kComputeCapabilityMinor);
  properties.multiprocessors = device_attribute(device->handle, api::kMultiprocessorCount);
  properties.shared_bytes = device_attribute(device->handle, api::kMaxSharedMemoryPerBlockOptin);
  return device;
}

api::Context primary_context(const CudaDevice& device) {
  std::atomic<api::Context>& slot = g_primary_contexts[static_cast<size_t>(device.index)];
  if (api::Context const context = slot.load(std::memory_order_acquire)) return context;
  // Making a context is one of the calls that a capture in progress would refuse.
  const RelaxedCapture relaxed;
  const std::lock_guard lock(g_mutex);
  if (api::Context const context = slot.load(std::memory_order_acquire)) return context;
  api::Context context = nullptr;
  check(driver().device_primary_ctx_retain(&context, device.handle), "cuDevicePrimaryCtxRetain",
        "Making the context of GPU " + std::to_string(device.index) + ".");
  slot.store(context, std::memory_order_release);
  return context;
}

}  // namespace

bool driver_opened() { return g_driver.load(std::memory_order_acquire) != nullptr; }

DriverStatus driver_status() {
  DriverStatus status;
  const Driver* const driver = opened_driver(&status.sentence);
  if (driver == nullptr) return status;
  status.available = true;
  status.version = driver->version;
  status.devices = driver->devices;
  status.sentence = driver->path + ", CUDA " + version_text(driver->version) + ", " +
                    std::to_string(driver->devices) +
                    (driver->devices == 1 ? " device" : " devices");
  return status;
}

const api::Functions& driver() {
  if (const Driver* const driver = g_driver.load(std::memory_order_acquire))
    return driver->functions;
  std::string why;
  const Driver* const driver = opened_driver(&why);
  if (driver == nullptr) throw Error(ErrorKind::kRuntime, why);
  return driver->functions;
}

void fail_call(api::Result result, const char* call, std::string_view doing) {
  std::string message =
      std::string(call) + ": " + error_text(driver(), result) + ". " + std::string(doing);
  if (result == api::kErrorNotInitialized) {
    message +=
        " CUDA does not work in a process forked from one that had used it: start workers by "
        "'spawn' or 'forkserver'.";
  }
  throw Error(ErrorKind::kRuntime, message);
}

const CudaDevice& cuda_device(int32_t index) {
  if (index >= 0 && index < kMaxDevices) {
    const CudaDevice* const device =
        g_devices[static_cast<size_t>(index)].load(std::memory_order_acquire);
    if (device != nullptr) return *device;
  }
  driver();
  const int32_t devices = std::min(driver_status().devices, kMaxDevices);
  if (index < 0 || index >= devices) {
    fail(ErrorKind::kValue, "device",
         "must be a GPU of this process, 0 to " + std::to_string(devices - 1),
         std::to_string(index), "Check CUDA_VISIBLE_DEVICES.");
  }
  std::unique_ptr<CudaDevice> device = query_device(index);
  const std::lock_guard lock(g_mutex);
  std::atomic<CudaDevice*>& slot = g_devices[static_cast<size_t>(index)];
  if (slot.load(std::memory_order_acquire) == nullptr)
    slot.store(device.release(), std::memory_order_release);
  return *slot.load(std::memory_order_acquire);
}

ScopedDevice::ScopedDevice(const CudaDevice& device) {
  api::Context const wanted = primary_context(device);
  api::Context current = nullptr;
  check(driver().ctx_get_current(&current), "cuCtxGetCurrent",
        "Looking for this thread's context.");
  if (current == wanted) return;
  check(driver().ctx_push_current(wanted), "cuCtxPushCurrent", "Making the GPU current.");
  pushed_ = true;
}

// NOLINTNEXTLINE(bugprone-exception-escape): the driver was there when the constructor ran
ScopedDevice::~ScopedDevice() {
  // A destructor cannot throw, and popping what was pushed fails only where the driver is shutting
  // down.
  api::Context popped = nullptr;
  if (pushed_) static_cast<void>(driver().ctx_pop_current(&popped));
}

RelaxedCapture::RelaxedCapture() {
  check(driver().thread_exchange_stream_capture_mode(&previous_),
        "cuThreadExchangeStreamCaptureMode",
        "Allowing this thread to load a kernel during a graph capture.");
}

// NOLINTNEXTLINE(bugprone-exception-escape): the driver was there when the constructor ran
RelaxedCapture::~RelaxedCapture() {
  static_cast<void>(driver().thread_exchange_stream_capture_mode(&previous_));
}

}  // namespace bsk::cuda
