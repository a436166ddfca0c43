#include <string>

#include "src/attention/kernel.h"
#include "src/cpu/kernels.h"
#include "src/cuda/sm90/kernels.h"

namespace bsk {
namespace {

std::string joined(const std::vector<std::string>& reasons) {
  std::string text;
  for (const std::string& reason : reasons) text += (text.empty() ? "" : "; ") + reason;
  return text;
}

bool supported_architecture(int32_t compute_capability) {
  return compute_capability / 10 == 9 || compute_capability / 10 == 10;
}

std::string no_kernel_message(const AttentionProblem& problem, const DeviceProperties& device,
                              const std::string& forced) {
  std::string message;
  if (device.type == DeviceType::kCuda && !supported_architecture(device.compute_capability)) {
    message = "Unsupported architecture: sm_" + std::to_string(device.compute_capability) + " (" +
              device.name +
              "). BlackwellSparseK requires sm_90a (H100) or sm_100 (Blackwell). Option A: use an "
              "H100 or a Blackwell "
              "GPU. Option B: stay on FlashCore until then (`pip install ./compat/flashcore` keeps "
              "its interface). "
              "Option C: use torch's scaled_dot_product_attention (Config(fallback='sdpa') or "
              "BSK_FALLBACK=sdpa does "
              "so, or move the tensors to the CPU).";
  } else {
    message = "No kernel of this build takes this problem on " + device.name +
              ". Config(fallback='sdpa') or BSK_FALLBACK=sdpa computes it with torch's SDPA; "
              "tensors on the CPU are "
              "taken by cpu_attention_forward.";
  }
  message += " Reasons:";
  for (const Kernel& kernel : kernels()) {
    if (!forced.empty() && forced != kernel.name) continue;
    const std::vector<std::string> reasons = kernel.reasons(problem, device);
    message += std::string("\n  ") + kernel.name + ": " +
               (reasons.empty() ? "takes it, but only when asked for by name (Config(kernel='" +
                                      std::string(kernel.name) + "')): " + kernel.summary
                                : joined(reasons));
  }
  return message;
}

}  // namespace

std::span<const Kernel> kernels() {
  static const Kernel list[] = {
      kCpuAttentionForward,
      // Before the latency kernel, whose place the throughput kernel takes in large batches with
      // the same bits.
      sm90::attention_forward_split::kKernel,
      sm90::attention_forward_small::kKernel,
      sm90::attention_forward::kKernel,
      kCpuReference,
  };
  return list;
}

const Kernel& choose_kernel(const AttentionProblem& problem, const DeviceProperties& device,
                            const std::string& forced) {
  for (const Kernel& kernel : kernels()) {
    if (forced.empty() ? kernel.only_when_forced : forced != kernel.name) continue;
    if (kernel.reasons(problem, device).empty()) return kernel;
  }
  throw Error(ErrorKind::kUnsupported, no_kernel_message(problem, device, forced));
}

}  // namespace bsk
