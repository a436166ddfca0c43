// The part of the CUDA driver's C interface that this library calls, declared here so that building
// it needs no CUDA toolkit. Layouts and numbers are those of cuda.h (CUDA 12.0 and later, "CUDA
// Driver API" reference manual); tests/cuda/host/cuda_api_test.cc compares each of them with a real
// cuda.h where one is installed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/cuda/host/tensor_map_data.h"

namespace bsk::cuda::api {

using Result = int;  // CUresult; 0 = success
using Device = int;  // CUdevice
using Context = struct ContextTag*;
using Stream = struct StreamTag*;
using Function = struct FunctionTag*;
using Library = struct LibraryTag*;
using KernelHandle = struct KernelTag*;  // CUkernel: a function of a library, of no context yet

constexpr Result kSuccess = 0;
constexpr Result kErrorNotInitialized = 3;
constexpr Result kErrorNoDevice = 100;
constexpr Result kErrorInvalidImage = 200;
constexpr Result kErrorNoBinaryForGpu = 209;
constexpr Result kErrorInvalidPtx = 218;
constexpr Result kErrorUnsupportedPtxVersion = 222;
constexpr Result kErrorInvalidSource = 300;

enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kL2CacheSize = 38,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxSharedMemoryPerBlockOptin = 97,
};

enum FunctionAttribute : int {
  kMaxDynamicSharedSizeBytes = 8,
  kNonPortableClusterSizeAllowed = 14,
};

enum LaunchAttributeId : int {
  kClusterDimension = 4,
  kProgrammaticStreamSerialization = 6,
};

union LaunchAttributeValue {
  char pad[64];
  struct {
    unsigned int x, y, z;
  } cluster_dim;
  int programmatic_stream_serialization_allowed;
};

// The tags are the driver's; only those that are used are named here.
// NOLINTNEXTLINE(bugprone-tagged-union-member-count)
struct LaunchAttribute {
  LaunchAttributeId id;
  char pad[8 - sizeof(LaunchAttributeId)];
  LaunchAttributeValue value;
};

struct LaunchConfig {
  unsigned int grid_x, grid_y, grid_z;
  unsigned int block_x, block_y, block_z;
  unsigned int shared_bytes;
  Stream stream;
  LaunchAttribute* attributes;
  unsigned int attribute_count;
};

enum CaptureStatus : int { kCaptureNone = 0, kCaptureActive = 1, kCaptureInvalidated = 2 };
enum CaptureMode : int { kCaptureGlobal = 0, kCaptureThreadLocal = 1, kCaptureRelaxed = 2 };

enum ProcAddressFlags : uint64_t { kProcAddressLegacyStream = 1 };

// cuGetProcAddress_v2, the one symbol that is looked up by dlsym.
using GetProcAddress = Result (*)(const char* symbol, void** function, int cuda_version,
                                  uint64_t flags, int* status);

// Every entry point in use: X(member, "driver symbol", parameters). All return a Result.
#define BSK_CUDA_ENTRY_POINTS(X)                                                               \
  X(get_error_name, "cuGetErrorName", (Result error, const char** name))                       \
  X(get_error_string, "cuGetErrorString", (Result error, const char** text))                   \
  X(init, "cuInit", (unsigned int flags))                                                      \
  X(driver_get_version, "cuDriverGetVersion", (int* version))                                  \
  X(device_get_count, "cuDeviceGetCount", (int* count))                                        \
  X(device_get, "cuDeviceGet", (Device * device, int ordinal))                                 \
  X(device_get_name, "cuDeviceGetName", (char* name, int size, Device device))                 \
  X(device_get_attribute, "cuDeviceGetAttribute",                                              \
    (int* value, DeviceAttribute attribute, Device device))                                    \
  X(device_total_mem, "cuDeviceTotalMem", (size_t* bytes, Device device))                      \
  X(device_primary_ctx_retain, "cuDevicePrimaryCtxRetain", (Context * context, Device device)) \
  X(ctx_get_current, "cuCtxGetCurrent", (Context * context))                                   \
  X(ctx_push_current, "cuCtxPushCurrent", (Context context))                                   \
  X(ctx_pop_current, "cuCtxPopCurrent", (Context * context))                                   \
  X(stream_is_capturing, "cuStreamIsCapturing", (Stream stream, CaptureStatus * status))       \
  X(stream_synchronize, "cuStreamSynchronize", (Stream stream))                                \
  X(thread_exchange_stream_capture_mode, "cuThreadExchangeStreamCaptureMode",                  \
    (CaptureMode * mode))                                                                      \
  X(library_load_data, "cuLibraryLoadData",                                                    \
    (Library * library, const void* code, int* jit_options, void** jit_option_values,          \
     unsigned int jit_option_count, int* library_options, void** library_option_values,        \
     unsigned int library_option_count))                                                       \
  X(library_get_kernel, "cuLibraryGetKernel",                                                  \
    (KernelHandle * kernel, Library library, const char* name))                                \
  X(kernel_set_attribute, "cuKernelSetAttribute",                                              \
    (FunctionAttribute attribute, int value, KernelHandle kernel, Device device))              \
  X(kernel_get_function, "cuKernelGetFunction", (Function * function, KernelHandle kernel))    \
  X(launch_kernel_ex, "cuLaunchKernelEx",                                                      \
    (const LaunchConfig* config, Function function, void** parameters, void** extra))          \
  X(tensor_map_encode_tiled, "cuTensorMapEncodeTiled",                                         \
    (TensorMapData * map, int data_type, uint32_t rank, void* address, const uint64_t* dims,   \
     const uint64_t* stride_bytes, const uint32_t* box, const uint32_t* element_strides,       \
     int interleave, int swizzle, int l2_promotion, int out_of_bounds_fill))                   \
  X(tensor_map_replace_address, "cuTensorMapReplaceAddress", (TensorMapData * map, void* address))

struct Functions {
// NOLINTNEXTLINE(bugprone-macro-parentheses): declarators
#define BSK_DECLARE(member, symbol, parameters) Result(*member) parameters = nullptr;
  BSK_CUDA_ENTRY_POINTS(BSK_DECLARE)
#undef BSK_DECLARE
};

}  // namespace bsk::cuda::api
