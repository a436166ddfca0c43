// The declarations of cuda_api.h against a real cuda.h: every layout and every number in use.
#include "src/cuda/host/cuda_api.h"

#include <cuda.h>
#include <gtest/gtest.h>

#include <type_traits>

namespace bsk::cuda::api {
namespace {

#define BSK_SAME_FIELD(ours, field, theirs, their_field)                  \
  static_assert(offsetof(ours, field) == offsetof(theirs, their_field) && \
                sizeof(std::declval<ours>().field) == sizeof(std::declval<theirs>().their_field))

static_assert(sizeof(LaunchConfig) == sizeof(CUlaunchConfig));
BSK_SAME_FIELD(LaunchConfig, grid_x, CUlaunchConfig, gridDimX);
BSK_SAME_FIELD(LaunchConfig, grid_y, CUlaunchConfig, gridDimY);
BSK_SAME_FIELD(LaunchConfig, grid_z, CUlaunchConfig, gridDimZ);
BSK_SAME_FIELD(LaunchConfig, block_x, CUlaunchConfig, blockDimX);
BSK_SAME_FIELD(LaunchConfig, block_y, CUlaunchConfig, blockDimY);
BSK_SAME_FIELD(LaunchConfig, block_z, CUlaunchConfig, blockDimZ);
BSK_SAME_FIELD(LaunchConfig, shared_bytes, CUlaunchConfig, sharedMemBytes);
BSK_SAME_FIELD(LaunchConfig, stream, CUlaunchConfig, hStream);
BSK_SAME_FIELD(LaunchConfig, attributes, CUlaunchConfig, attrs);
BSK_SAME_FIELD(LaunchConfig, attribute_count, CUlaunchConfig, numAttrs);

static_assert(sizeof(LaunchAttribute) == sizeof(CUlaunchAttribute));
static_assert(sizeof(LaunchAttributeValue) == sizeof(CUlaunchAttributeValue));
BSK_SAME_FIELD(LaunchAttribute, id, CUlaunchAttribute, id);
BSK_SAME_FIELD(LaunchAttribute, value, CUlaunchAttribute, value);
BSK_SAME_FIELD(LaunchAttributeValue, cluster_dim, CUlaunchAttributeValue, clusterDim);
BSK_SAME_FIELD(LaunchAttributeValue, programmatic_stream_serialization_allowed,
               CUlaunchAttributeValue, programmaticStreamSerializationAllowed);

static_assert(sizeof(TensorMapData) == sizeof(CUtensorMap) &&
              alignof(TensorMapData) >= alignof(CUtensorMap));
static_assert(sizeof(Result) == sizeof(CUresult) && sizeof(Device) == sizeof(CUdevice));
static_assert(sizeof(CaptureStatus) == sizeof(CUstreamCaptureStatus) &&
              sizeof(CaptureMode) == sizeof(CUstreamCaptureMode));

#define BSK_SAME_NUMBER(ours, theirs) \
  static_assert(static_cast<long>(ours) == static_cast<long>(theirs))
BSK_SAME_NUMBER(kSuccess, CUDA_SUCCESS);
BSK_SAME_NUMBER(kErrorNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
BSK_SAME_NUMBER(kErrorNoDevice, CUDA_ERROR_NO_DEVICE);
BSK_SAME_NUMBER(kErrorInvalidImage, CUDA_ERROR_INVALID_IMAGE);
BSK_SAME_NUMBER(kErrorNoBinaryForGpu, CUDA_ERROR_NO_BINARY_FOR_GPU);
BSK_SAME_NUMBER(kErrorInvalidPtx, CUDA_ERROR_INVALID_PTX);
BSK_SAME_NUMBER(kErrorUnsupportedPtxVersion, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
BSK_SAME_NUMBER(kErrorInvalidSource, CUDA_ERROR_INVALID_SOURCE);
BSK_SAME_NUMBER(kMultiprocessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
BSK_SAME_NUMBER(kL2CacheSize, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
BSK_SAME_NUMBER(kComputeCapabilityMajor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
BSK_SAME_NUMBER(kComputeCapabilityMinor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
BSK_SAME_NUMBER(kMaxSharedMemoryPerBlockOptin,
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
BSK_SAME_NUMBER(kMaxDynamicSharedSizeBytes, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
BSK_SAME_NUMBER(kClusterDimension, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
BSK_SAME_NUMBER(kProgrammaticStreamSerialization,
                CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
BSK_SAME_NUMBER(kCaptureNone, CU_STREAM_CAPTURE_STATUS_NONE);
BSK_SAME_NUMBER(kCaptureActive, CU_STREAM_CAPTURE_STATUS_ACTIVE);
BSK_SAME_NUMBER(kCaptureInvalidated, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
BSK_SAME_NUMBER(kCaptureGlobal, CU_STREAM_CAPTURE_MODE_GLOBAL);
BSK_SAME_NUMBER(kCaptureThreadLocal, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
BSK_SAME_NUMBER(kCaptureRelaxed, CU_STREAM_CAPTURE_MODE_RELAXED);
BSK_SAME_NUMBER(kProcAddressLegacyStream, CU_GET_PROC_ADDRESS_LEGACY_STREAM);

// Parameters: as many, each of the same size and kind (both pointers, or both not).
template <class Ours, class Theirs>
struct SameSignature : std::false_type {};
template <class... Ours, class... Theirs>
struct SameSignature<Result (*)(Ours...), CUresult(Theirs...)> {
  template <size_t... I>
  static constexpr bool same_all() {
    return (
        (sizeof(Ours) == sizeof(Theirs) && std::is_pointer_v<Ours> == std::is_pointer_v<Theirs>) &&
        ...);
  }
  static constexpr bool value = [] {
    if constexpr (sizeof...(Ours) == sizeof...(Theirs)) return same_all<>();
    return false;
  }();
};

#define BSK_SAME_FUNCTION(member, function) \
  static_assert(SameSignature<decltype(Functions::member), decltype(function)>::value)
BSK_SAME_FUNCTION(get_error_name, cuGetErrorName);
BSK_SAME_FUNCTION(get_error_string, cuGetErrorString);
BSK_SAME_FUNCTION(init, cuInit);
BSK_SAME_FUNCTION(driver_get_version, cuDriverGetVersion);
BSK_SAME_FUNCTION(device_get_count, cuDeviceGetCount);
BSK_SAME_FUNCTION(device_get, cuDeviceGet);
BSK_SAME_FUNCTION(device_get_name, cuDeviceGetName);
BSK_SAME_FUNCTION(device_get_attribute, cuDeviceGetAttribute);
BSK_SAME_FUNCTION(device_total_mem, cuDeviceTotalMem);
BSK_SAME_FUNCTION(device_primary_ctx_retain, cuDevicePrimaryCtxRetain);
BSK_SAME_FUNCTION(ctx_get_current, cuCtxGetCurrent);
BSK_SAME_FUNCTION(ctx_push_current, cuCtxPushCurrent);
BSK_SAME_FUNCTION(ctx_pop_current, cuCtxPopCurrent);
BSK_SAME_FUNCTION(stream_is_capturing, cuStreamIsCapturing);
BSK_SAME_FUNCTION(stream_synchronize, cuStreamSynchronize);
BSK_SAME_FUNCTION(thread_exchange_stream_capture_mode, cuThreadExchangeStreamCaptureMode);
BSK_SAME_FUNCTION(library_load_data, cuLibraryLoadData);
BSK_SAME_FUNCTION(library_get_kernel, cuLibraryGetKernel);
BSK_SAME_FUNCTION(kernel_set_attribute, cuKernelSetAttribute);
BSK_SAME_FUNCTION(kernel_get_function, cuKernelGetFunction);
BSK_SAME_FUNCTION(launch_kernel_ex, cuLaunchKernelEx);
BSK_SAME_FUNCTION(tensor_map_encode_tiled, cuTensorMapEncodeTiled);

// Everything above is checked when this file compiles; this line makes that visible among the
// tests.
TEST(CudaApi, agrees_with_cuda_h) { EXPECT_GE(CUDA_VERSION, 12000); }

}  // namespace
}  // namespace bsk::cuda::api
