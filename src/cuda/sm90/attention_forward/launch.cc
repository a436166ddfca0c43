// Host side of the throughput kernel. See launch.h.
#include "src/cuda/sm90/attention_forward/launch.h"

#include <algorithm>
#include <cmath>

#include "src/cuda/host/launch.h"

namespace bsk::sm90::attention_forward {
namespace {

constexpr int64_t kLengthLimit = tile::Visibility::kUnbounded;
constexpr double kLog2eDouble = 1.4426950408889634;
// Bytes of K and V that a group of heads may keep in L2 together (50 MB on H100 and H200, which
// also hold Q, O and what other kernels left).
constexpr int64_t kL2ShareBytes = int64_t{24} << 20;

int tile_columns(int64_t head_dim) {  // the widths for which wgmma and the tiles are instantiated
  for (const int columns : {32, 64, 96, 128, 192}) {
    if (head_dim <= columns) return columns;
  }
  return 256;
}

bool aligned_strides(const TensorLayout& tensor) {
  for (int i = 0; i < 3; ++i) {
    if (tensor.shape[i] > 1 && (tensor.stride[i] % 8 != 0 || tensor.stride[i] < 0)) return false;
  }
  return tensor.stride[3] == 1 || tensor.shape[3] == 1;
}

tile::MaskType mask_type(const AttentionProblem& problem) {
  if (problem.mask_kind == MaskKind::kNone) return tile::MaskType::kNone;
  switch (problem.mask.dtype) {
    case DataType::kBool:
      return tile::MaskType::kBool;
    case DataType::kFloat16:
      return tile::MaskType::kFloat16;
    case DataType::kBFloat16:
      return tile::MaskType::kBFloat16;
    default:
      return tile::MaskType::kFloat32;
  }
}

// Where a tensor repeats (stride 0) its map has one entry and the kernel's coordinate stays 0.
int step(const TensorLayout& tensor, int dimension) {
  return tensor.stride[dimension] == 0 || tensor.shape[dimension] == 1 ? 0 : 1;
}

cuda::TensorMapSpec map_of(const char* name, const TensorLayout& tensor, int box_rows) {
  cuda::TensorMapSpec spec;
  spec.name = name;
  spec.dtype = tensor.dtype;
  spec.rank = 4;
  for (int i = 0; i < 4; ++i) {
    const int dimension = 3 - i;
    const bool repeats = dimension < 2 && step(tensor, dimension) == 0;
    spec.dims[i] = repeats ? 1 : tensor.shape[dimension];
    spec.strides[i] = tensor.stride[dimension];
    spec.box[i] = 1;
  }
  spec.box[0] = arch::kSwizzleElements;
  spec.box[1] = box_rows;
  return spec;
}

const char* element_name(arch::Element element) {
  return element == arch::Element::kFloat16 ? "fp16" : "bf16";
}

cuda::KernelRequest request(const ConfigChoice& choice) {
  return {choice.name(), "src/cuda/sm90/attention_forward/kernel.cuh",
          "bsk::sm90::attention_forward::attention_forward", choice.type_name(), "90a"};
}

}  // namespace

std::string ConfigChoice::type_name() const {
  static const char* const kMasks[] = {"kNone", "kBool", "kFloat16", "kBFloat16", "kFloat32"};
  std::string text = "bsk::sm90::attention_forward::Config<bsk::arch::Element::";
  text += element == arch::Element::kFloat16 ? "kFloat16" : "kBFloat16";
  for (const int value : {shape.head_dim, shape.v_head_dim, shape.consumers, shape.kv_tile, shape.block_keys}) {
    text += ", " + std::to_string(value);
  }
  text += transform ? ", true" : ", false";
  text += std::string(", bsk::tile::MaskType::") + kMasks[static_cast<int>(mask)];
  return text + ", " + std::to_string(polynomial_quarters) + ">";
}

std::string ConfigChoice::name() const {
  static const char* const kMasks[] = {"", "_bool_mask", "_fp16_mask", "_bf16_mask", "_fp32_mask"};
  std::string text = "sm90_attention_forward_d" + std::to_string(shape.head_dim);
  if (shape.v_head_dim != shape.head_dim) text += "v" + std::to_string(shape.v_head_dim);
  text += std::string("_") + element_name(element) + "_q" + std::to_string(shape.q_tile()) + "k" +
          std::to_string(shape.kv_tile);
  if (shape.block_keys != shape.kv_tile) text += "_block" + std::to_string(shape.block_keys);
  if (transform && mask == tile::MaskType::kNone) text += "_scores";
  return text + kMasks[static_cast<int>(mask)];
}

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device) {
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
  const struct {
    const char* name;
    const TensorLayout& tensor;
  } tensors[] = {{"q", problem.q}, {"k", problem.k}, {"v", problem.v}, {"out", problem.out}};
  for (const auto& [name, tensor] : tensors) {
    need(aligned_strides(tensor), std::string("needs strides of ") + name +
                                      " that are multiples of 8 elements, with a unit stride in "
                                      "head_dim");
    need(tensor.shape[2] <= 1 || tensor.stride[2] != 0,
         std::string("needs rows of ") + name + " that do not repeat (stride 0)");
  }
  if (problem.block_mask.present) {
    need(problem.block_mask.block_q == 64 || problem.block_mask.block_q == 128,
         "needs block_mask's query blocks of 64 or 128");
    const int block_k = problem.block_mask.block_k;
    need(block_k == 16 || block_k == 32 || block_k == 64 || block_k == 128,
         "needs block_mask's key blocks of 16, 32, 64 or 128");
    need(problem.block_mask.heads == 1 || problem.q_heads() % problem.block_mask.heads == 0,
         "needs block_mask's heads to divide q_heads");
  }
  return found;
}

ConfigChoice choose_config(const AttentionProblem& problem) {
  ConfigChoice choice;
  choice.element = problem.q.dtype == DataType::kBFloat16 ? arch::Element::kBFloat16
                                                          : arch::Element::kFloat16;
  choice.shape.head_dim = tile_columns(problem.head_dim());
  choice.shape.v_head_dim = tile_columns(problem.v_head_dim());
  choice.mask = mask_type(problem);
  choice.transform =
      choice.mask != tile::MaskType::kNone || problem.softcap > 0.0 || !(problem.scale > 0.0);
  const BlockMaskLayout& lists = problem.block_mask;
  const int widest = std::max(choice.shape.head_dim, choice.shape.v_head_dim);
  if (lists.present) {
    choice.shape.consumers = lists.block_q / 64;
  } else {
    // Three warpgroups where scores, weights and O of a thread fit in 160 registers.
    choice.shape.consumers = widest <= 64 && !choice.transform ? 3 : 2;
  }
  // 64 keys where 128 would not fit in a thread's registers (attn_mask needs some for itself).
  const bool masked = choice.mask != tile::MaskType::kNone;
  choice.shape.kv_tile = widest > 192 || (widest > 128 && choice.shape.consumers == 1) ||
                                 (widest > 64 && masked)
                             ? 64
                             : 128;
  choice.shape.block_keys =
      lists.present ? std::min<int>(lists.block_k, choice.shape.kv_tile) : choice.shape.kv_tile;
  return choice;
}

AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties& device) {
  const ConfigChoice choice = choose_config(problem);
  const int64_t q_tiles = (problem.q_len() + choice.shape.q_tile() - 1) / choice.shape.q_tile();
  const int64_t tasks = q_tiles * problem.q_heads() * problem.batch();
  AttentionPlan plan;
  plan.kernel = &kKernel;
  plan.config = choice.name();
  plan.q_tile = choice.shape.q_tile();
  plan.kv_tile = choice.shape.kv_tile;
  plan.tasks = std::min<int64_t>(tasks, device.multiprocessors * choice.shape.ctas_per_multiprocessor());
  plan.threads = choice.shape.threads();
  plan.shared_bytes = choice.shape.shared_bytes();
  return plan;
}

Params make_params(const AttentionProblem& problem, const AttentionBuffers& buffers,
                   const ConfigChoice& choice) {
  Params params{};
  params.q_head_step = step(problem.q, 1);
  params.q_batch_step = step(problem.q, 0);
  params.k_head_step = step(problem.k, 1);
  params.k_batch_step = step(problem.k, 0);
  params.v_head_step = step(problem.v, 1);
  params.v_batch_step = step(problem.v, 0);
  params.out = buffers.out;
  params.out_batch_stride = problem.out.stride[0];
  params.out_head_stride = problem.out.stride[1];
  params.out_row_stride = problem.out.stride[2];
  params.lse = problem.return_lse ? buffers.lse : nullptr;
  params.q_heads = static_cast<int32_t>(problem.q_heads());
  params.q_heads_per_kv_head = static_cast<int32_t>(problem.q_heads() / problem.kv_heads());
  params.q_len = static_cast<int32_t>(problem.q_len());
  params.v_head_dim = static_cast<int32_t>(problem.v_head_dim());
  params.scale_log2 = static_cast<float>(problem.scale * kLog2eDouble);

  tile::Visibility& visibility = params.visibility;
  visibility.kv_len = static_cast<int32_t>(problem.kv_len());
  const int64_t diagonal = problem.diagonal_offset();
  if (problem.window_left >= 0) {
    visibility.first = static_cast<int32_t>(
        std::clamp<int64_t>(diagonal - problem.window_left, -kLengthLimit, kLengthLimit));
  }
  int64_t right = problem.window_right < 0 ? kLengthLimit : problem.window_right;
  if (problem.causal != Causal::kNone) right = 0;
  visibility.end =
      static_cast<int32_t>(std::clamp<int64_t>(diagonal + right + 1, -kLengthLimit, kLengthLimit));

  if (problem.block_mask.present) {
    const BlockMaskLayout& layout = problem.block_mask;
    tile::BlockLists& lists = params.lists;
    lists.full_counts = buffers.block_mask.full_counts;
    lists.full_indices = buffers.block_mask.full_indices;
    if (layout.partial_width > 0) {
      lists.partial_counts = buffers.block_mask.partial_counts;
      lists.partial_indices = buffers.block_mask.partial_indices;
      lists.partial_bits = buffers.block_mask.partial_bits;
    }
    lists.block_q = layout.block_q;
    lists.block_k = layout.block_k;
    lists.full_width = static_cast<int32_t>(layout.full_width);
    lists.partial_width = static_cast<int32_t>(layout.partial_width);
    lists.batch_stride =
        layout.batch == 1 ? 0 : static_cast<int32_t>(layout.heads * layout.q_blocks);
    lists.head_stride = layout.heads == 1 ? 0 : static_cast<int32_t>(layout.q_blocks);
    lists.heads_per_list =
        static_cast<int32_t>(problem.q_heads() / std::max<int64_t>(layout.heads, 1));
  }
  params.transform = {static_cast<float>(problem.scale), static_cast<float>(problem.softcap)};
  if (problem.mask_kind != MaskKind::kNone) {
    const auto stride = [&problem](int i) {
      return problem.mask.shape[i] == 1 ? 0 : problem.mask.stride[i];
    };
    params.mask = {buffers.mask, stride(0), stride(1), stride(2), stride(3)};
  }

  tile::Schedule& schedule = params.schedule;
  schedule.q_tiles =
      static_cast<int32_t>((problem.q_len() + choice.shape.q_tile() - 1) / choice.shape.q_tile());
  schedule.heads = static_cast<int32_t>(problem.batch() * problem.q_heads());
  schedule.tasks = schedule.q_tiles * schedule.heads;
  schedule.longest_first = problem.causal != Causal::kNone;
  if (schedule.longest_first) {
    const int64_t kv_head_bytes =
        2 * problem.kv_len() * (problem.head_dim() + problem.v_head_dim());
    const int64_t kv_heads = std::max<int64_t>(1, kL2ShareBytes / std::max<int64_t>(kv_head_bytes, 1));
    schedule.heads_per_group = static_cast<int32_t>(
        std::min<int64_t>(schedule.heads, kv_heads * params.q_heads_per_kv_head));
  }
  return params;
}

std::array<cuda::TensorMapSpec, 3> tensor_map_specs(const AttentionProblem& problem,
                                                    const ConfigChoice& choice) {
  return {map_of("q", problem.q, 64), map_of("k", problem.k, choice.shape.block_keys),
          map_of("v", problem.v, choice.shape.block_keys)};
}

void launch(const AttentionProblem& problem, const AttentionPlan& plan,
            const AttentionBuffers& buffers) {
  if (plan.tasks == 0) return;
  const ConfigChoice choice = choose_config(problem);
  Params params = make_params(problem, buffers, choice);
  const auto specs = tensor_map_specs(problem, choice);
  params.q = cuda::encode_tensor_map(specs[0], buffers.q);
  // Without keys nothing reads these two, but they must still be tensor maps.
  const bool empty = problem.kv_len() == 0;
  params.k = empty ? params.q : cuda::encode_tensor_map(specs[1], buffers.k);
  params.v = empty ? params.q : cuda::encode_tensor_map(specs[2], buffers.v);
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>(plan.tasks);
  shape.threads = static_cast<uint32_t>(plan.threads);
  shape.shared_bytes = plan.shared_bytes;
  shape.programmatic_dependent_launch = true;
  cuda::launch(cuda::device_kernel(request(choice)), problem.q.device_index, buffers.stream, shape,
               params);
}

const Kernel kKernel = {"sm90_attention_forward",
                        "Hopper, any length: copies and products in different warps (compiled and "
                        "emulated, never yet run on a GPU)",
                        reasons,
                        make_plan,
                        launch,
                        false};

std::vector<cuda::KernelRequest> documented_requests() {
  std::vector<cuda::KernelRequest> requests;
  for (const arch::Element element : {arch::Element::kFloat16, arch::Element::kBFloat16}) {
    for (const int columns : {64, 128}) {
      ConfigChoice choice{element, {columns, columns, columns == 64 ? 3 : 2, 128, 128}};
      requests.push_back(request(choice));
      choice.shape.consumers = 2;
      if (columns == 64) requests.push_back(request(choice));  // block masks
      choice.shape.block_keys = 64;
      for (const int consumers : {1, 2}) {
        choice.shape.consumers = consumers;
        requests.push_back(request(choice));
      }
    }
  }
  return requests;
}

}  // namespace bsk::sm90::attention_forward
