#include "src/cuda/sm90/problem.h"

namespace bsk::sm90 {
namespace {

constexpr int64_t kLengthLimit = tile::Visibility::kUnbounded;

bool aligned_strides(const TensorLayout& tensor) {
  for (int i = 0; i < 3; ++i) {
    if (tensor.shape[i] > 1 && (tensor.stride[i] % 8 != 0 || tensor.stride[i] < 0)) return false;
  }
  return tensor.stride[3] == 1 || tensor.shape[3] == 1;
}

int32_t clamped(int64_t value) {
  return static_cast<int32_t>(std::clamp(value, -kLengthLimit, kLengthLimit));
}

}  // namespace

std::vector<std::string> common_reasons(const AttentionProblem& problem,
                                        const DeviceProperties& device) {
  std::vector<std::string> found;
  const auto need = [&found](bool holds, const std::string& reason) {
    if (!holds) found.push_back(reason);
  };
  need(device.type == DeviceType::kCuda && device.compute_capability == 90,
       "needs a GPU of compute capability 9.0");
  need(problem.q.dtype == DataType::kFloat16 || problem.q.dtype == DataType::kBFloat16,
       std::string("needs float16 or bfloat16, not ") + to_string(problem.q.dtype));
  need(problem.k.dtype == problem.q.dtype && problem.v.dtype == problem.q.dtype &&
           problem.out.dtype == problem.q.dtype,
       "needs one dtype for q, k, v and out");
  for (const int64_t columns : {problem.head_dim(), problem.v_head_dim()}) {
    need(columns % 8 == 0 && columns >= 8 && columns <= 256,
         "needs head_dim a multiple of 8 up to 256, not " + std::to_string(columns));
  }
  need(problem.q_len() < kLengthLimit && problem.kv_len() < kLengthLimit,
       "needs lengths below 2^29");
  const int64_t tiles = std::max<int64_t>((problem.q_len() + 63) / 64, 1);  // the smallest tiles
  need(problem.batch() * problem.q_heads() <= INT32_MAX / tiles,
       "needs fewer than 2^31 tiles of 64 query rows");
  const struct {
    const char* name;
    const TensorLayout& tensor;
  } tensors[] = {{"q", problem.q}, {"k", problem.k}, {"v", problem.v}, {"out", problem.out}};
  for (const auto& [name, tensor] : tensors) {
    need(aligned_strides(tensor), std::string("needs strides of ") + name +
                                      " that are multiples of 8 elements, with a unit stride in "
                                      "head_dim");
    need(tensor.address_alignment >= 16,
         std::string("needs ") + name + " to start at a multiple of 16 bytes, not of " +
             std::to_string(tensor.address_alignment) + " (a copy does: " + name + ".clone())");
    need(tensor.shape[2] <= 1 || tensor.stride[2] != 0,
         std::string("needs rows of ") + name + " that do not repeat (stride 0)");
  }
  return found;
}

arch::Element element_of(const AttentionProblem& problem) {
  return problem.q.dtype == DataType::kBFloat16 ? arch::Element::kBFloat16
                                                : arch::Element::kFloat16;
}

const char* element_name(arch::Element element) {
  return element == arch::Element::kFloat16 ? "fp16" : "bf16";
}

const char* element_type_name(arch::Element element) {
  return element == arch::Element::kFloat16 ? "bsk::arch::Element::kFloat16"
                                            : "bsk::arch::Element::kBFloat16";
}

bool scale_is_a_factor(const AttentionProblem& problem) {
  constexpr double kLargest = 64.0;
  return problem.scale > 0.0 && problem.scale <= kLargest;
}

tile::Visibility visibility_of(const AttentionProblem& problem) {
  tile::Visibility visibility;
  visibility.kv_len = static_cast<int32_t>(problem.kv_len());
  const int64_t diagonal = problem.diagonal_offset();
  if (problem.window_left >= 0) {
    visibility.first = clamped(diagonal - std::min(problem.window_left, 2 * kLengthLimit));
  }
  int64_t right = problem.window_right;
  if (problem.causal != Causal::kNone) right = 0;
  if (right >= 0) visibility.end = clamped(diagonal + std::min(right, 2 * kLengthLimit) + 1);
  return visibility;
}

int tile_columns(int64_t head_dim) {
  for (const int columns : {32, 64, 96, 128, 192}) {
    if (head_dim <= columns) return columns;
  }
  return 256;
}

tile::MaskType mask_type(const AttentionProblem& problem) {
  if (problem.mask_kind == MaskKind::kNone) return tile::MaskType::kNone;
  switch (problem.mask.dtype) {
    case DataType::kBool: return tile::MaskType::kBool;
    case DataType::kFloat16: return tile::MaskType::kFloat16;
    case DataType::kBFloat16: return tile::MaskType::kBFloat16;
    default: return tile::MaskType::kFloat32;
  }
}

tile::MaskTensor mask_tensor(const AttentionProblem& problem, const AttentionBuffers& buffers) {
  if (problem.mask_kind == MaskKind::kNone) return {};
  const auto stride = [&problem](int i) {
    return problem.mask.shape[i] == 1 ? 0 : problem.mask.stride[i];
  };
  return {buffers.mask, stride(0), stride(1), stride(2), stride(3)};
}

int chains_of(const AttentionProblem& problem, int multiprocessors) {
  const bool plain = problem.mask_kind == MaskKind::kNone && !problem.block_mask.present &&
                     problem.softcap == 0.0 && scale_is_a_factor(problem);
  if (!plain || std::max(problem.head_dim(), problem.v_head_dim()) > 64) return 1;
  if (problem.kv_len() <= 128 || problem.kv_len() > 512) return 1;
  return (problem.q_len() + 63) / 64 * problem.q_heads() <= multiprocessors ? 2 : 1;
}

int broadcast_step(const TensorLayout& tensor, int dimension) {
  return tensor.stride[dimension] == 0 || tensor.shape[dimension] == 1 ? 0 : 1;
}

cuda::TensorMapSpec tensor_map_spec(const char* name, const TensorLayout& tensor, int box_rows) {
  cuda::TensorMapSpec spec;
  spec.name = name;
  spec.dtype = tensor.dtype;
  spec.rank = 4;
  for (int i = 0; i < 4; ++i) {
    const int dimension = 3 - i;
    const bool repeats = dimension < 2 && broadcast_step(tensor, dimension) == 0;
    spec.dims[i] = repeats ? 1 : tensor.shape[dimension];
    spec.strides[i] = tensor.stride[dimension];
    spec.box[i] = 1;
  }
  spec.box[0] = arch::kSwizzleElements;
  spec.box[1] = box_rows;
  return spec;
}

}  // namespace bsk::sm90
