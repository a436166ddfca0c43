#include "tests/cuda/host/fake_libcuda.h"

#include <cuda.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace {

struct FakeContext {
  int device;
};
struct FakeLibrary {
  std::string code;
};
struct FakeKernel {
  FakeLibrary* library;
  std::string name;
  std::map<int, int> allowed_shared_bytes;  // by device
  std::map<int, bool> large_clusters;
};
struct FakeFunction {
  FakeKernel* kernel;
  FakeContext* context;
};

FakeCuda g_fake;
FakeContext g_primary[16];
int g_retained[16];
std::vector<std::unique_ptr<FakeLibrary>> g_libraries;
std::vector<std::unique_ptr<FakeKernel>> g_kernels;
std::vector<std::unique_ptr<FakeFunction>> g_functions;
bool g_initialised = false;
thread_local std::vector<CUcontext> t_contexts;
thread_local CUstreamCaptureMode t_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

// Records the call; returns what it was told to fail with.
CUresult begin(const char* symbol) {
  g_fake.calls.emplace_back(symbol);
  const auto once = g_fake.failures_once.find(symbol);
  if (once != g_fake.failures_once.end()) {
    const int result = once->second;
    g_fake.failures_once.erase(once);
    return static_cast<CUresult>(result);
  }
  const auto always = g_fake.failures.find(symbol);
  if (always != g_fake.failures.end()) return static_cast<CUresult>(always->second);
  if (!g_initialised) return CUDA_ERROR_NOT_INITIALIZED;
  return CUDA_SUCCESS;
}

// The calls that a capture in global mode forbids to every thread that has not relaxed its mode.
CUresult begin_unsafe(const char* symbol) {
  const CUresult result = begin(symbol);
  if (result == CUDA_SUCCESS && g_fake.capturing_stream != 0 &&
      t_mode != CU_STREAM_CAPTURE_MODE_RELAXED) {
    ++g_fake.unsafe_calls_refused;
    g_fake.capture_invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return result;
}

#define BSK_FAKE(name, parameters, ...)                    \
  CUresult fake_##name parameters {                        \
    const std::lock_guard lock(g_fake.mutex);              \
    if (const CUresult r = begin(#name); r != 0) return r; \
    __VA_ARGS__                                            \
    return CUDA_SUCCESS;                                   \
  }
#define BSK_FAKE_UNSAFE(name, parameters, ...)                    \
  CUresult fake_##name parameters {                               \
    const std::lock_guard lock(g_fake.mutex);                     \
    if (const CUresult r = begin_unsafe(#name); r != 0) return r; \
    __VA_ARGS__                                                   \
    return CUDA_SUCCESS;                                          \
  }

CUresult fake_cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case CUDA_ERROR_NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; break;
    case CUDA_ERROR_NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case CUDA_ERROR_NO_BINARY_FOR_GPU: *name = "CUDA_ERROR_NO_BINARY_FOR_GPU"; break;
    default: *name = nullptr; return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}
CUresult fake_cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "some text";
  return CUDA_SUCCESS;
}
CUresult fake_cuInit(unsigned) {
  const std::lock_guard lock(g_fake.mutex);
  g_fake.calls.emplace_back("cuInit");
  const auto failure = g_fake.failures.find("cuInit");
  if (failure != g_fake.failures.end()) return static_cast<CUresult>(failure->second);
  g_initialised = true;
  for (int i = 0; i < 16; ++i) g_primary[i].device = i;
  return CUDA_SUCCESS;
}
BSK_FAKE(cuDriverGetVersion, (int* version), *version = g_fake.driver_version;)
BSK_FAKE(cuDeviceGetCount, (int* count), *count = g_fake.devices;)
BSK_FAKE(cuDeviceGet, (CUdevice * device, int ordinal), {
  if (ordinal < 0 || ordinal >= g_fake.devices) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
})
BSK_FAKE(cuDeviceGetName, (char* name, int size, CUdevice device),
         std::snprintf(name, static_cast<size_t>(size), "Fake GPU %d", device);)
BSK_FAKE(cuDeviceGetAttribute, (int* value, CUdevice_attribute attribute, CUdevice), {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 50 << 20; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
})
BSK_FAKE(cuDeviceTotalMem, (size_t* bytes, CUdevice), *bytes = size_t{80} << 30;)
BSK_FAKE_UNSAFE(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device), {
  ++g_retained[device];
  *context = reinterpret_cast<CUcontext>(&g_primary[device]);
})
BSK_FAKE(cuCtxGetCurrent, (CUcontext * context),
         *context = t_contexts.empty() ? nullptr : t_contexts.back();)
BSK_FAKE(cuCtxPushCurrent, (CUcontext context), t_contexts.push_back(context);)
BSK_FAKE(cuCtxPopCurrent, (CUcontext * context), {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = t_contexts.back();
  t_contexts.pop_back();
})
BSK_FAKE(cuStreamIsCapturing, (CUstream stream, CUstreamCaptureStatus* status),
         *status = g_fake.capturing_stream != 0 &&
                           reinterpret_cast<uintptr_t>(stream) == g_fake.capturing_stream
                       ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                       : CU_STREAM_CAPTURE_STATUS_NONE;)
BSK_FAKE_UNSAFE(cuStreamSynchronize, (CUstream), {})
BSK_FAKE(cuThreadExchangeStreamCaptureMode, (CUstreamCaptureMode * mode), std::swap(*mode, t_mode);)
BSK_FAKE_UNSAFE(cuLibraryLoadData,
                (CUlibrary * library, const void* code, CUjit_option*, void**, unsigned,
                 CUlibraryOption*, void**, unsigned),
                {
                  // Machine code starts as an ELF file does; its size is in its section table, so
                  // only a head is kept.
                  if (std::memcmp(code, "\177ELF", 4) != 0) return CUDA_ERROR_INVALID_IMAGE;
                  auto fake = std::make_unique<FakeLibrary>();
                  fake->code.assign(static_cast<const char*>(code), 64);
                  *library = reinterpret_cast<CUlibrary>(fake.get());
                  g_libraries.push_back(std::move(fake));
                })
BSK_FAKE(cuLibraryGetKernel, (CUkernel * kernel, CUlibrary library, const char* name), {
  g_kernels.push_back(std::make_unique<FakeKernel>());
  g_kernels.back()->library = reinterpret_cast<FakeLibrary*>(library);
  g_kernels.back()->name = name;
  *kernel = reinterpret_cast<CUkernel>(g_kernels.back().get());
})
BSK_FAKE_UNSAFE(cuKernelSetAttribute,
                (CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice device), {
                  if (attribute == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) {
                    reinterpret_cast<FakeKernel*>(kernel)->large_clusters[device] = value == 1;
                    return CUDA_SUCCESS;
                  }
                  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES ||
                      value > 232448)
                    return CUDA_ERROR_INVALID_VALUE;
                  reinterpret_cast<FakeKernel*>(kernel)->allowed_shared_bytes[device] = value;
                })
BSK_FAKE_UNSAFE(cuKernelGetFunction, (CUfunction * function, CUkernel kernel), {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  g_functions.push_back(std::make_unique<FakeFunction>());
  g_functions.back()->kernel = reinterpret_cast<FakeKernel*>(kernel);
  g_functions.back()->context = reinterpret_cast<FakeContext*>(t_contexts.back());
  *function = reinterpret_cast<CUfunction>(g_functions.back().get());
})
BSK_FAKE(cuLaunchKernelEx,
         (const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra), {
           auto* const fake = reinterpret_cast<FakeFunction*>(function);
           if (t_contexts.empty() ||
               reinterpret_cast<FakeContext*>(t_contexts.back()) != fake->context) {
             return CUDA_ERROR_INVALID_CONTEXT;
           }
           if (extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
           const int device = fake->context->device;
           const auto allowed = fake->kernel->allowed_shared_bytes.find(device);
           const unsigned limit = allowed == fake->kernel->allowed_shared_bytes.end()
                                      ? 48 << 10
                                      : static_cast<unsigned>(allowed->second);
           if (config->sharedMemBytes > limit) return CUDA_ERROR_INVALID_VALUE;
           FakeLaunch launch{};
           launch.stream = reinterpret_cast<uintptr_t>(config->hStream);
           const unsigned grid[3] = {config->gridDimX, config->gridDimY, config->gridDimZ};
           const unsigned block[3] = {config->blockDimX, config->blockDimY, config->blockDimZ};
           const unsigned threads = block[0] * block[1] * block[2];
           if (grid[0] * grid[1] * grid[2] == 0 || std::max(grid[1], grid[2]) > 65535 ||
               threads < 1 || threads > 1024)
             return CUDA_ERROR_INVALID_VALUE;
           std::copy(grid, grid + 3, launch.grid);
           std::copy(block, block + 3, launch.block);
           launch.shared_bytes = config->sharedMemBytes;
           for (unsigned i = 0; i < config->numAttrs; ++i) {
             const CUlaunchAttribute& attribute = config->attrs[i];
             if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
               launch.cluster[0] = attribute.value.clusterDim.x;
               launch.cluster[1] = attribute.value.clusterDim.y;
               launch.cluster[2] = attribute.value.clusterDim.z;
               const unsigned ctas = launch.cluster[0] * launch.cluster[1] * launch.cluster[2];
               if (ctas > 16) return CUDA_ERROR_INVALID_VALUE;
               for (int d = 0; d < 3; ++d) {
                 if (grid[d] % launch.cluster[d] != 0) return CUDA_ERROR_INVALID_VALUE;
               }
               if (ctas > 8 && !fake->kernel->large_clusters[device])
                 return CUDA_ERROR_INVALID_CLUSTER_SIZE;
             } else if (attribute.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
               launch.programmatic_dependent_launch =
                   attribute.value.programmaticStreamSerializationAllowed == 1;
             } else {
               return CUDA_ERROR_INVALID_VALUE;
             }
           }
           launch.device = device;
           launch.kernel = fake->kernel->name;
           launch.params.assign(static_cast<const char*>(parameters[0]), g_fake.params_bytes);
           g_fake.launches.push_back(launch);
         })
BSK_FAKE(cuTensorMapEncodeTiled,
         (CUtensorMap * map, CUtensorMapDataType type, cuuint32_t rank, void* address,
          const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
          const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
          CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
          CUtensorMapFloatOOBfill fill),
         {
           // As the driver on the test GPU answered a thread that had used no CUDA before.
           if (g_fake.maps_need_context && t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
           FakeTensorMap fake{type,
                              static_cast<int>(rank),
                              interleave,
                              swizzle,
                              promotion,
                              fill,
                              reinterpret_cast<uintptr_t>(address),
                              {dims, dims + rank},
                              {strides, strides + rank - 1},
                              {box, box + rank},
                              {element_strides, element_strides + rank}};
           g_fake.tensor_maps.push_back(fake);
           for (cuuint64_t& word : map->opaque) word = 0x5eed;
           map->opaque[0] = fake.address;
         })
BSK_FAKE(cuTensorMapReplaceAddress, (CUtensorMap * map, void* address), {
  if (g_fake.maps_need_context && t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (map->opaque[15] != 0x5eed || reinterpret_cast<uintptr_t>(address) % 16 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  map->opaque[0] = reinterpret_cast<uintptr_t>(address);
})

struct Symbol {
  const char* name;
  void* function;
};
#define BSK_SYMBOL(name) {#name, reinterpret_cast<void*>(fake_##name)}
const Symbol kSymbols[] = {
    BSK_SYMBOL(cuGetErrorName),
    BSK_SYMBOL(cuGetErrorString),
    BSK_SYMBOL(cuInit),
    BSK_SYMBOL(cuDriverGetVersion),
    BSK_SYMBOL(cuDeviceGetCount),
    BSK_SYMBOL(cuDeviceGet),
    BSK_SYMBOL(cuDeviceGetName),
    BSK_SYMBOL(cuDeviceGetAttribute),
    // cuda.h renames these two and the context calls to their newest versions; the engine asks by
    // the plain name.
    {"cuDeviceTotalMem", reinterpret_cast<void*>(fake_cuDeviceTotalMem)},
    BSK_SYMBOL(cuDevicePrimaryCtxRetain),
    BSK_SYMBOL(cuCtxGetCurrent),
    {"cuCtxPushCurrent", reinterpret_cast<void*>(fake_cuCtxPushCurrent)},
    {"cuCtxPopCurrent", reinterpret_cast<void*>(fake_cuCtxPopCurrent)},
    BSK_SYMBOL(cuStreamIsCapturing),
    BSK_SYMBOL(cuStreamSynchronize),
    BSK_SYMBOL(cuThreadExchangeStreamCaptureMode),
    BSK_SYMBOL(cuLibraryLoadData),
    BSK_SYMBOL(cuLibraryGetKernel),
    BSK_SYMBOL(cuKernelSetAttribute),
    BSK_SYMBOL(cuKernelGetFunction),
    BSK_SYMBOL(cuLaunchKernelEx),
    BSK_SYMBOL(cuTensorMapEncodeTiled),
    BSK_SYMBOL(cuTensorMapReplaceAddress),
};

}  // namespace

extern "C" {

__attribute__((visibility("default"))) FakeCuda* fake_cuda() { return &g_fake; }

// cuda.h declares it as cuGetProcAddress_v2.
__attribute__((visibility("default"))) CUresult
cuGetProcAddress(const char* symbol, void** function, int cuda_version, cuuint64_t flags,
                 CUdriverProcAddressQueryResult* status) {
  *function = nullptr;
  *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  if (cuda_version != 12000 || flags != CU_GET_PROC_ADDRESS_LEGACY_STREAM)
    return CUDA_ERROR_INVALID_VALUE;
  if (std::find(g_fake.missing.begin(), g_fake.missing.end(), symbol) != g_fake.missing.end())
    return CUDA_ERROR_NOT_FOUND;
  for (const Symbol& known : kSymbols) {
    if (std::strcmp(known.name, symbol) != 0) continue;
    *function = known.function;
    *status = CU_GET_PROC_ADDRESS_SUCCESS;
  }
  return *function != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
}
