#include "src/cuda/host/device_kernel.h"

#include <map>
#include <tuple>

#include "bsk/error.h"
#include "src/cuda/host/engine.h"

namespace bsk::cuda {

struct DeviceKernel::Loaded {
  int32_t device = 0;
  std::shared_ptr<const KernelCode> code;
  api::Library library = nullptr;
  api::KernelHandle kernel = nullptr;
  api::Function function = nullptr;
  std::atomic<uint64_t> generation{0};  // of the engine's settings that this code is right for
  std::atomic<int64_t> allowed_shared_bytes{0};
  std::atomic<bool> large_clusters_allowed{false};
};

namespace {

// Whether the machine code itself does not suit the driver or the GPU. Another failure, a lack of
// memory or what an earlier kernel did, would meet any other code as well.
bool is_of_the_code(api::Result result) {
  return result == api::kErrorInvalidImage || result == api::kErrorNoBinaryForGpu ||
         result == api::kErrorInvalidPtx || result == api::kErrorUnsupportedPtxVersion ||
         result == api::kErrorInvalidSource;
}

api::Result load_library(const KernelCode& code, api::Library* library) {
  return driver().library_load_data(library, code.cubin.data(), nullptr, nullptr, 0, nullptr,
                                    nullptr, 0);
}

}  // namespace

DeviceKernel::DeviceKernel(KernelRequest request) : request_(std::move(request)) {}
DeviceKernel::~DeviceKernel() = default;

DeviceKernel::Ready DeviceKernel::get(int32_t device, int64_t shared_bytes, uint32_t cluster_ctas) {
  Loaded* loaded = loaded_[device].load(std::memory_order_acquire);
  if (loaded == nullptr ||
      loaded->generation.load(std::memory_order_acquire) != engine_settings_generation()) {
    loaded = &load(device);
  }
  if (shared_bytes > loaded->allowed_shared_bytes.load(std::memory_order_acquire)) {
    allow_shared(*loaded, device, shared_bytes);
  }
  if (cluster_ctas > kPortableClusterCtas &&
      !loaded->large_clusters_allowed.load(std::memory_order_acquire)) {
    allow_large_clusters(*loaded, device);
  }
  return {loaded->function, loaded->code->debug_checks};
}

DeviceKernel::Loaded& DeviceKernel::load(int32_t device) {
  const std::lock_guard lock(mutex_);
  // Read before the settings are: if they change meanwhile, the next `get` loads again.
  const uint64_t generation = engine_settings_generation();
  Loaded* const previous = loaded_[device].load(std::memory_order_acquire);
  if (previous != nullptr && previous->generation.load(std::memory_order_acquire) == generation)
    return *previous;

  const std::string doing = "Loading " + request_.name + " on GPU " + std::to_string(device) + ".";
  std::shared_ptr<const KernelCode> code = kernel_code(request_);
  auto loaded = std::make_unique<Loaded>();
  loaded->device = device;
  for (const auto& other : all_loaded_) {
    if (other->code != code) continue;
    if (other->device == device) {  // under these settings, or under earlier ones like them
      other->generation.store(generation, std::memory_order_release);
      loaded_[device].store(other.get(), std::memory_order_release);
      return *other;
    }
    // A library belongs to no device: what one device has loaded serves the others.
    loaded->library = other->library;
    loaded->kernel = other->kernel;
  }
  const RelaxedCapture relaxed;
  if (loaded->library == nullptr) {
    const api::Result result = load_library(*code, &loaded->library);
    if (is_of_the_code(result) && code->origin != KernelOrigin::kCompiled) {
      // Stored machine code that this driver cannot load, made by a newer compiler say: what the
      // compiler beside this driver makes may do.
      add_engine_notice("The stored machine code of " + request_.name +
                        " does not load with this driver; it is compiled anew.");
      code = recompiled_kernel_code(request_);
      check(load_library(*code, &loaded->library), "cuLibraryLoadData", doing);
    } else {
      check(result, "cuLibraryLoadData", doing);
    }
    check(driver().library_get_kernel(&loaded->kernel, loaded->library, request_.name.c_str()),
          "cuLibraryGetKernel", doing);
  }
  // With lazy loading the driver would load the function at its first launch, where a capture may
  // be under way.
  check(driver().kernel_get_function(&loaded->function, loaded->kernel), "cuKernelGetFunction",
        doing);
  loaded->code = std::move(code);
  loaded->generation.store(generation, std::memory_order_release);
  all_loaded_.push_back(std::move(loaded));
  loaded_[device].store(all_loaded_.back().get(), std::memory_order_release);
  return *all_loaded_.back();
}

void DeviceKernel::allow_shared(Loaded& loaded, int32_t device, int64_t shared_bytes) {
  const std::lock_guard lock(mutex_);
  if (shared_bytes <= loaded.allowed_shared_bytes.load(std::memory_order_acquire)) return;
  const CudaDevice& properties = cuda_device(device);
  if (shared_bytes > properties.properties.shared_bytes) {
    throw Error(ErrorKind::kRuntime, request_.name + " needs " + std::to_string(shared_bytes) +
                                         " bytes of shared memory per CTA; " +
                                         properties.properties.name + " has " +
                                         std::to_string(properties.properties.shared_bytes) + ".");
  }
  const RelaxedCapture relaxed;
  check(
      driver().kernel_set_attribute(api::kMaxDynamicSharedSizeBytes, static_cast<int>(shared_bytes),
                                    loaded.kernel, properties.handle),
      "cuKernelSetAttribute",
      "Allowing " + request_.name + " " + std::to_string(shared_bytes) +
          " bytes of shared memory.");
  loaded.allowed_shared_bytes.store(shared_bytes, std::memory_order_release);
}

void DeviceKernel::allow_large_clusters(Loaded& loaded, int32_t device) {
  const std::lock_guard lock(mutex_);
  if (loaded.large_clusters_allowed.load(std::memory_order_acquire)) return;
  const RelaxedCapture relaxed;
  check(driver().kernel_set_attribute(api::kNonPortableClusterSizeAllowed, 1, loaded.kernel,
                                      cuda_device(device).handle),
        "cuKernelSetAttribute", "Allowing " + request_.name + " clusters of more than 8 CTAs.");
  loaded.large_clusters_allowed.store(true, std::memory_order_release);
}

DeviceKernel& device_kernel(const KernelRequest& request) {
  using Key = std::tuple<std::string, std::string, std::string, std::string, std::string>;
  static std::mutex* const mutex = new std::mutex;
  static auto* const table = new std::map<Key, std::unique_ptr<DeviceKernel>>;
  const std::lock_guard lock(*mutex);
  std::unique_ptr<DeviceKernel>& kernel = (*table)[Key(request.name, request.source, request.entry,
                                                       request.config, request.architecture)];
  if (kernel == nullptr) kernel = std::make_unique<DeviceKernel>(request);
  return *kernel;
}

}  // namespace bsk::cuda
