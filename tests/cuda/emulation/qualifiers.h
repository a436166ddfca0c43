// CUDA's qualifiers for a host compiler; included before everything else by the build.
#pragma once

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
