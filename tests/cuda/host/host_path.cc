// What a repeated call costs the host, for callgrind: attention_forward from problem to driver,
// over a driver whose functions return at once (docs/lab_notes/host_path.md).
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "bsk/attention.h"
#include "src/cuda/host/driver.h"
#include "src/cuda/host/engine.h"

namespace {

using namespace bsk;

// Callgrind collects while this runs: --toggle-collect='repeat(*'.
__attribute__((noinline)) void repeat(int calls, const AttentionProblem& problem,
                                      const AttentionBuffers& buffers,
                                      const DeviceProperties& device, const std::string& kernel) {
  for (int i = 0; i < calls; ++i) attention_forward(problem, buffers, device, kernel);
}

// The tests' driver keeps a record of each call, so what a repeated call uses is replaced.
void answer_at_once() {
  static cuda::api::Context current = nullptr;
  static_cast<void>(cuda::driver().ctx_get_current(&current));
  auto& functions = const_cast<cuda::api::Functions&>(cuda::driver());
  functions.ctx_get_current = [](cuda::api::Context* context) {
    *context = current;
    return cuda::api::kSuccess;
  };
  functions.tensor_map_replace_address = [](cuda::TensorMapData*, void*) {
    return cuda::api::kSuccess;
  };
  functions.launch_kernel_ex = [](const cuda::api::LaunchConfig*, cuda::api::Function, void**,
                                  void**) { return cuda::api::kSuccess; };
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: host_path KERNEL CALLS\n");
    return 2;
  }
  cuda::EnginePlaces places;
  places.driver_library = FAKE_LIBCUDA;
  places.kernel_dir = REAL_KERNEL_DIR;
  places.nvrtc_libraries = {NVRTC_LIBRARIES};
  cuda::set_engine_places(places);
  AttentionProblem problem = dense_problem(DataType::kFloat16, 1, 8, 8, 512, 512, 64, 64);
  AttentionBuffers buffers;
  for (TensorLayout* tensor : {&problem.q, &problem.k, &problem.v, &problem.out}) {
    tensor->device = DeviceType::kCuda;
  }
  const auto address = [](uintptr_t i) { return reinterpret_cast<void*>(i << 32); };
  buffers.q = address(1);
  buffers.k = address(2);
  buffers.v = address(3);
  buffers.out = address(4);
  const DeviceProperties device = cuda::cuda_device(0).properties;
  const std::string kernel = argv[1];
  attention_forward(problem, buffers, device, kernel);
  const cuda::ScopedDevice scoped(cuda::cuda_device(0));
  answer_at_once();
  repeat(std::atoi(argv[2]), problem, buffers, device, kernel);
  return 0;
}
