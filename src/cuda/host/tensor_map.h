// Tensor maps: what TMA needs to know about a tensor in global memory.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "bsk/attention.h"
#include "src/cuda/host/tensor_map_data.h"

namespace bsk::cuda {

enum class Swizzle : int { kNone = 0, k32Bytes = 1, k64Bytes = 2, k128Bytes = 3 };
enum class L2Promotion : int { kNone = 0, k64Bytes = 1, k128Bytes = 2, k256Bytes = 3 };

// A tensor of `rank` dimensions, the innermost first (so dims[0] is head_dim), and the box that one
// copy moves.
struct TensorMapSpec {
  const char* name = "tensor";  // in messages
  DataType dtype = DataType::kFloat16;
  int32_t rank = 0;                  // 1 to 5
  std::array<int64_t, 5> dims{};     // in elements
  std::array<int64_t, 5> strides{};  // in elements; strides[0] must be 1 (or dims[0] == 1)
  std::array<int32_t, 5> box{};      // in elements, 1 to 256 each
  Swizzle swizzle = Swizzle::k128Bytes;
  L2Promotion l2_promotion = L2Promotion::k128Bytes;
};

// Why the driver would refuse this tensor map; "" = it would not. Needs no driver. A dimension of
// size 1 may have any stride: it is replaced by one that satisfies the hardware.
std::string tensor_map_problem(const TensorMapSpec& spec, const void* address);

// Encodes the map on the host: no launch, no copy. Elements outside the tensor read as zero and are
// not written. Throws Error(kValue) with tensor_map_problem().
TensorMapData encode_tensor_map(const TensorMapSpec& spec, const void* address);

// Lets an encoded map describe an equal tensor at another address, a multiple of 16. `name` is the
// spec's.
void replace_address(TensorMapData& map, const char* name, const void* address);

}  // namespace bsk::cuda
