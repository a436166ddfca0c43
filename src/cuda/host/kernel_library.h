// Where a kernel's machine code comes from: the cubins of the package, the disk cache, the
// compiler, in this order.
#pragma once

#include <memory>
#include <string>

namespace bsk::cuda {

// One configuration of one kernel. The translation unit made of it is
//
//   #include "<source>"
//   extern "C" __global__ void __launch_bounds__(<config>::kThreads, <config>::kMinBlocks)
//   <name>(const __grid_constant__ <config>::Params params) { <entry><<config>>(params); }
//
// so that profilers show the kernel's own name.
struct KernelRequest {
  std::string name;    // a C identifier: "sm90_attention_forward_d64_fp16"
  std::string source;  // the header, from the repository's root:
                       // "src/cuda/sm90/attention_forward/kernel.cuh"
  std::string
      entry;  // template <class Config> __device__ void entry(const typename Config::Params&)
  std::string config;        // a C++ type: "bsk::sm90::ForwardConfig<64, 128, bsk::Fp16>"
  std::string architecture;  // "90a"

  bool operator==(const KernelRequest&) const = default;
};

std::string translation_unit(const KernelRequest& request);

enum class KernelOrigin { kEmbedded, kDiskCache, kCompiled };
const char* to_string(KernelOrigin origin);

struct KernelCode {
  std::string cubin;
  bool debug_checks = false;  // compiled with BSK_DEBUG_CHECKS=1
  KernelOrigin origin = KernelOrigin::kCompiled;
  double seconds = 0;  // that finding or compiling it took
  std::string log;     // the compiler's, where it ran
};

// The machine code of a request, under the settings in force; needs no GPU. The same object for the
// same code. Threads that ask for the same request at the same time compile it once; processes may
// compile it once each, and the last one's file stays.
std::shared_ptr<const KernelCode> kernel_code(const KernelRequest& request);

// The same, compiled whatever is stored, and remembered in this process alone.
std::shared_ptr<const KernelCode> recompiled_kernel_code(const KernelRequest& request);

// Compiles a request and stores it in `dir` as one of the package's embedded cubins.
void embed_kernel(const KernelRequest& request, const std::string& dir);

}  // namespace bsk::cuda
