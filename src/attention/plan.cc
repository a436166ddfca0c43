#include <string>
#include <thread>

#include "src/attention/kernel.h"
#include "src/attention/settings.h"

namespace bsk {

AttentionPlan plan(const AttentionProblem& problem, const DeviceProperties& device,
                   const std::string& forced) {
  const Kernel& kernel = choose_kernel(problem, device, forced);
  AttentionPlan result = kernel.plan(problem, device);
  result.kernel = &kernel;
  return result;
}

std::string to_string(const AttentionPlan& plan) {
  std::string text = plan.kernel == nullptr ? "no kernel" : plan.kernel->name;
  if (!plan.config.empty()) text += "<" + plan.config + ">";
  text += ": " + std::to_string(plan.tasks);
  if (plan.row_tiles > 0)
    text += " CTAs with up to " + std::to_string(plan.row_tiles) + " tiles of 64 query rows, in";
  text += " tasks of " + std::to_string(plan.q_tile) + " query rows, steps of " +
          std::to_string(plan.kv_tile) + " keys, " + std::to_string(plan.threads) + " threads";
  if (plan.splits > 1) text += ", keys split in " + std::to_string(plan.splits);
  if (plan.shared_bytes > 0)
    text += ", " + std::to_string(plan.shared_bytes) + " bytes of shared memory";
  return text;
}

DeviceProperties cpu_properties(int32_t threads) {
  DeviceProperties device;
  device.type = DeviceType::kCpu;
  device.name = "the CPU";
  if (threads <= 0) threads = threads_from_environment();
  if (threads <= 0) threads = static_cast<int32_t>(std::thread::hardware_concurrency());
  device.threads = threads > 0 ? threads : 1;
  return device;
}

TensorLayout contiguous(DataType dtype, std::array<int64_t, 4> shape) {
  TensorLayout layout;
  layout.dtype = dtype;
  layout.shape = shape;
  layout.stride = {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
  return layout;
}

AttentionProblem dense_problem(DataType dtype, int64_t batch, int64_t q_heads, int64_t kv_heads,
                               int64_t q_len, int64_t kv_len, int64_t head_dim,
                               int64_t v_head_dim) {
  AttentionProblem problem;
  problem.q = contiguous(dtype, {batch, q_heads, q_len, head_dim});
  problem.k = contiguous(dtype, {batch, kv_heads, kv_len, head_dim});
  problem.v = contiguous(dtype, {batch, kv_heads, kv_len, v_head_dim});
  problem.out = contiguous(dtype, {batch, q_heads, q_len, v_head_dim});
  problem.scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  return problem;
}

std::string to_string(DeviceType type, int32_t index) {
  return type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(index);
}

const char* to_string(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat64: return "float64";
    case DataType::kFloat32: return "float32";
    case DataType::kFloat16: return "float16";
    case DataType::kBFloat16: return "bfloat16";
    case DataType::kBool: return "bool";
  }
  return "unknown";
}

int64_t bytes_per_element(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat64: return 8;
    case DataType::kFloat32: return 4;
    case DataType::kFloat16: return 2;
    case DataType::kBFloat16: return 2;
    case DataType::kBool: return 1;
  }
  return 0;
}

}  // namespace bsk
