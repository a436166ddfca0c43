// Compiles the documented kernels when a wheel is built: embed_kernels KERNEL_DIR [NVRTC...]
#include <cstdio>
#include <exception>

#include "src/cuda/catalog.h"
#include "src/cuda/host/engine.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: embed_kernels KERNEL_DIR [NVRTC_LIBRARY...]\n");
    return 2;
  }
  try {
    bsk::cuda::EnginePlaces places;
    places.kernel_dir = argv[1];
    places.nvrtc_libraries.assign(argv + 2, argv + argc);
    bsk::cuda::set_engine_places(places);
    for (const bsk::cuda::KernelRequest& request : bsk::cuda::documented_requests()) {
      bsk::cuda::embed_kernel(request, places.kernel_dir + "/cubins");
      std::printf("%s\n", request.name.c_str());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
