#include "src/cuda/host/tensor_map.h"

#include <algorithm>

#include "bsk/error.h"
#include "src/cuda/host/driver.h"

namespace bsk::cuda {
namespace {

// CUtensorMapDataType, or -1 where TMA has no such type.
int driver_data_type(DataType dtype) {
  switch (dtype) {
    case DataType::kBool: return 0;  // as unsigned bytes
    case DataType::kFloat16: return 6;
    case DataType::kFloat32: return 7;
    case DataType::kFloat64: return 8;
    case DataType::kBFloat16: return 9;
  }
  return -1;
}

// Bytes of one row of the swizzle pattern; 0 = no limit on the box.
int64_t swizzle_bytes(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::kNone: return 0;
    case Swizzle::k32Bytes: return 32;
    case Swizzle::k64Bytes: return 64;
    case Swizzle::k128Bytes: return 128;
  }
  return 0;
}

constexpr int64_t kMaxDim = int64_t{1} << 32;
constexpr int64_t kMaxStrideBytes = int64_t{1} << 40;

// Byte strides of dimensions 1 to rank - 1. A dimension of size 1 is never stepped over, so its
// stride becomes the extent of the dimension below it, rounded up to what the hardware accepts.
std::array<int64_t, 4> stride_bytes(const TensorMapSpec& spec) {
  const int64_t element = bytes_per_element(spec.dtype);
  std::array<int64_t, 4> bytes{};
  int64_t below = spec.dims[0] * element;
  for (int32_t i = 1; i < spec.rank; ++i) {
    const auto d = static_cast<size_t>(i);
    bytes[d - 1] = spec.dims[d] == 1 ? std::min((below + 15) / 16 * 16, kMaxStrideBytes - 16)
                                     : spec.strides[d] * element;
    below = std::max(below, bytes[d - 1] * spec.dims[d]);
  }
  return bytes;
}

std::string problem_text(const TensorMapSpec& spec, const std::string& what) {
  return std::string("tensor map of ") + spec.name + ": " + what;
}

}  // namespace

// The rules are those of cuTensorMapEncodeTiled in the CUDA Driver API reference (section "Tensor
// Map Object Management"), for interleave NONE.
std::string tensor_map_problem(const TensorMapSpec& spec, const void* address) {
  const auto problem = [&](const std::string& what) { return problem_text(spec, what); };
  if (spec.rank < 1 || spec.rank > 5) {
    return problem("it must have 1 to 5 dimensions; got " + std::to_string(spec.rank));
  }
  if (driver_data_type(spec.dtype) < 0) return problem("its dtype is none that TMA knows");
  if (address == nullptr) return problem("its address is null");
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
    return problem("its address must be a multiple of 16 bytes; got one that is " +
                   std::to_string(reinterpret_cast<uintptr_t>(address) % 16) + " past");
  }
  const int64_t element = bytes_per_element(spec.dtype);
  for (int32_t i = 0; i < spec.rank; ++i) {
    const auto d = static_cast<size_t>(i);
    const std::string dimension = "dimension " + std::to_string(i);
    if (spec.dims[d] < 1 || spec.dims[d] > kMaxDim) {
      return problem(dimension + " must have 1 to 2^32 elements; got " +
                     std::to_string(spec.dims[d]));
    }
    if (spec.box[d] < 1 || spec.box[d] > 256) {
      return problem("the box must have 1 to 256 elements in " + dimension + "; got " +
                     std::to_string(spec.box[d]));
    }
  }
  if (spec.dims[0] != 1 && spec.strides[0] != 1) {
    return problem("dimension 0 must have stride 1; got " + std::to_string(spec.strides[0]));
  }
  for (int32_t i = 1; i < spec.rank; ++i) {
    const auto d = static_cast<size_t>(i);
    if (spec.dims[d] == 1) continue;
    const int64_t stride = spec.strides[d];
    const std::string dimension = "the stride of dimension " + std::to_string(i);
    if (stride == 0) {
      return problem(dimension +
                     " is 0; describe a broadcast dimension by size 1 and read it at coordinate 0");
    }
    if (stride < 1 || stride >= kMaxStrideBytes / element) {
      return problem(dimension + " must be positive and below 2^40 bytes; got " +
                     std::to_string(stride) + " elements");
    }
    if (stride * element % 16 != 0) {
      return problem(dimension + " must be a multiple of 16 bytes; got " +
                     std::to_string(stride * element) + " bytes");
    }
  }
  const int64_t box_bytes = spec.box[0] * element;
  if (box_bytes % 16 != 0) {
    return problem("the box must span a multiple of 16 bytes of dimension 0; got " +
                   std::to_string(box_bytes));
  }
  const int64_t span = swizzle_bytes(spec.swizzle);
  if (span != 0 && box_bytes > span) {
    return problem("the box must span at most the swizzle's " + std::to_string(span) +
                   " bytes of dimension 0; got " + std::to_string(box_bytes));
  }
  return "";
}

TensorMapData encode_tensor_map(const TensorMapSpec& spec, const void* address) {
  const std::string problem = tensor_map_problem(spec, address);
  if (!problem.empty()) throw Error(ErrorKind::kValue, problem + ".");
  const std::array<int64_t, 4> strides = stride_bytes(spec);
  uint64_t dims[5] = {};
  uint64_t byte_strides[4] = {};
  uint32_t box[5] = {};
  const uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  for (size_t d = 0; d < static_cast<size_t>(spec.rank); ++d) {
    dims[d] = static_cast<uint64_t>(spec.dims[d]);
    box[d] = static_cast<uint32_t>(spec.box[d]);
    if (d > 0) byte_strides[d - 1] = static_cast<uint64_t>(strides[d - 1]);
  }
  TensorMapData map{};
  constexpr int kInterleaveNone = 0;
  constexpr int kOutOfBoundsZero = 0;
  const api::Result result = driver().tensor_map_encode_tiled(
      &map, driver_data_type(spec.dtype), static_cast<uint32_t>(spec.rank),
      const_cast<void*>(address), dims, byte_strides, box, element_strides, kInterleaveNone,
      static_cast<int>(spec.swizzle), static_cast<int>(spec.l2_promotion), kOutOfBoundsZero);
  if (result != api::kSuccess)
    check(result, "cuTensorMapEncodeTiled", problem_text(spec, "the driver refuses it") + ".");
  return map;
}

void replace_address(TensorMapData& map, const char* name, const void* address) {
  const api::Result result = driver().tensor_map_replace_address(&map, const_cast<void*>(address));
  if (result != api::kSuccess)
    check(result, "cuTensorMapReplaceAddress", std::string("Describing ") + name + ".");
}

}  // namespace bsk::cuda
