// The 128 opaque bytes of a TMA tensor map, as kernel parameters hold them. Host and device code
// include this file, so it uses no other header.
#pragma once

namespace bsk::cuda {

// Byte for byte what cuda.h calls CUtensorMap. In a kernel's parameters it must stay in the
// `__grid_constant__` struct: the hardware reads it from there, and a copy in local memory is not a
// tensor map.
struct alignas(64) TensorMapData {
  unsigned long long opaque[16];
};

static_assert(sizeof(TensorMapData) == 128);

}  // namespace bsk::cuda
