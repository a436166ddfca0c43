// Host side of the throughput kernel. See launch.h.
#include "src/cuda/sm90/attention_forward/launch.h"

#include <algorithm>
#include <cmath>

#include "src/cuda/sm90/prepared_launch.h"

namespace bsk::sm90::attention_forward {
namespace {

// Bytes of K and V that a group of heads may keep in L2 together (50 MB on H100 and H200, which
// also hold Q, O and what other kernels left).
constexpr int64_t kL2ShareBytes = int64_t{24} << 20;

// Query rows of the multiprocessor that has most, with tiles of `consumers` warpgroups.
int64_t busiest_rows(const AttentionProblem& problem, int consumers, int multiprocessors) {
  const int64_t rows = 64 * consumers;
  const int64_t tasks = (problem.q_len() + rows - 1) / rows * problem.q_heads() * problem.batch();
  return (tasks + multiprocessors - 1) / multiprocessors * rows;
}

// The configuration with so many consumers, for keys in so many chains.
ConfigChoice completed(const AttentionProblem& problem, ConfigChoice choice, int consumers,
                       int chains) {
  choice.shape.consumers = consumers;
  choice.chained = chains > 1;
  // Measured (docs/lab_notes): 8 to 12% faster with two consumers on dense problems, slower with
  // three and with a block mask's lists.
  choice.takes_turns = !problem.block_mask.present && consumers == 2 && !choice.transform &&
                       choice.shape.mask_bytes == 0 &&
                       std::max(choice.shape.head_dim, choice.shape.v_head_dim) <= 64;
  return choice;
}

bool mask_rows_repeat(const AttentionProblem& problem) {
  return problem.mask.shape[2] == 1 || problem.mask.stride[2] == 0;
}

// Where the keys per tile of queries differ much, the hardware deals tiles out, one CTA each, to
// multiprocessors as they become free; where they are equal or short, persistent CTAs save the
// prologues. (Measured: block masks with query blocks of 128 prefer the latter.)
bool lengths_differ(const AttentionProblem& problem) {
  if (problem.kv_len() < 2048) return false;
  const bool padding_differs = problem.mask_kind == MaskKind::kBool && mask_rows_repeat(problem) &&
                               problem.batch() > 1 && broadcast_step(problem.mask, 0) != 0;
  const bool window_is_short =
      problem.window_left >= 0 && problem.window_left < problem.kv_len() / 2;
  return padding_differs || (problem.causal != Causal::kNone && !window_is_short) ||
         (problem.block_mask.present && problem.block_mask.block_q == 64);
}

// Whether the copy engine can read a row of attn_mask, as far as that does not hang on where others
// begin.
bool mask_row_is_copied(const AttentionProblem& problem) {
  const TensorLayout& mask = problem.mask;
  return mask.address_alignment >= 16 && mask.shape[3] == problem.kv_len() &&
         (mask.shape[3] == 1 || mask.stride[3] == 1);
}

// Whether the copy engine can bring attn_mask's tiles as they are.
bool mask_is_copied(const AttentionProblem& problem) {
  const TensorLayout& mask = problem.mask;
  if (!mask_row_is_copied(problem)) return false;
  for (int i = 0; i < 3; ++i) {
    if (mask.shape[i] > 1 &&
        (mask.stride[i] < 0 || mask.stride[i] * bytes_per_element(mask.dtype) % 16 != 0)) {
      return false;
    }
  }
  return true;
}

// What the copy engine needs to know to take attn_mask in groups of rows, and how many there are;
// stride 0 where it cannot.
struct GroupedMask {
  tile::MaskRows rows;
  int64_t count = 0;
};
GroupedMask grouped_mask(const AttentionProblem& problem, const ConfigChoice& choice) {
  const TensorLayout& mask = problem.mask;
  const int64_t keys = problem.kv_len(), group = choice.shape.mask_group;
  const int chunk_bytes = tile::mask_chunk_bytes(choice.mask, choice.shape.block_keys);
  if (group == 1 || !mask_row_is_copied(problem) || 64 / group * chunk_bytes % 128 != 0) return {};
  int64_t strides[3], stride = 0;  // the least that is not 0
  for (int i = 0; i < 3; ++i) {
    strides[i] = mask.shape[i] == 1 ? 0 : mask.stride[i];
    if (strides[i] != 0 && (stride == 0 || strides[i] < stride)) stride = strides[i];
  }
  if (stride == 0) stride = keys;
  if (stride < keys || (strides[2] != 0 && strides[2] != stride)) return {};
  int64_t count = 1;
  for (int i = 0; i < 3; ++i) {
    if (strides[i] % stride != 0) return {};
    count += (mask.shape[i] - 1) * (strides[i] / stride);
  }
  constexpr int64_t kCoordinateLimit = int64_t{1} << 30;
  if (count >= kCoordinateLimit || group * stride >= kCoordinateLimit) return {};
  GroupedMask grouped;
  grouped.count = count;
  grouped.rows.stride = static_cast<int32_t>(stride);
  grouped.rows.batch_rows = static_cast<int32_t>(strides[0] / stride);
  grouped.rows.head_rows = static_cast<int32_t>(strides[1] / stride);
  grouped.rows.rest = static_cast<int32_t>(count < group ? group : count % group);
  return grouped;
}

cuda::TensorMapSpec mask_map_spec(const AttentionProblem& problem, const ConfigChoice& choice) {
  cuda::TensorMapSpec spec = tensor_map_spec("attn_mask", problem.mask, 64);
  if (mask_rows_repeat(problem)) spec.dims[1] = spec.box[1] = 1;
  const int chunk_bytes = tile::mask_chunk_bytes(choice.mask, choice.shape.block_keys);
  spec.box[0] = chunk_bytes / choice.shape.mask_bytes;
  spec.swizzle = chunk_bytes == 128  ? cuda::Swizzle::k128Bytes
                 : chunk_bytes == 64 ? cuda::Swizzle::k64Bytes
                 : chunk_bytes == 32 ? cuda::Swizzle::k32Bytes
                                     : cuda::Swizzle::kNone;
  return spec;
}

// Of Params::mask_map, and of whole_groups_map where rows come in groups; none where the copy
// engine does not take the mask.
TensorMapSpecs mask_map_specs(const AttentionProblem& problem, const ConfigChoice& choice) {
  if (choice.shape.mask_bytes == 0) return {};
  cuda::TensorMapSpec spec = mask_map_spec(problem, choice);
  if (choice.shape.mask_group == 1) return {spec};
  const GroupedMask mask = grouped_mask(problem, choice);
  if (mask.rows.stride == 0) return {};
  const int64_t stride = mask.rows.stride, group = choice.shape.mask_group,
                whole = mask.count / group, rest = mask.count % group;
  spec.strides = {1, group * stride, 0, 0};
  if (!mask_rows_repeat(problem)) spec.box[1] = static_cast<int32_t>(64 / group);
  const auto of = [&](int64_t rows, int64_t groups) {  // so many rows of each group
    spec.dims = {(rows - 1) * stride + problem.kv_len(), groups, 1, 1};
    return spec;
  };
  return {rest == 0 ? of(group, whole) : of(rest, whole + 1),
          whole == 0 ? of(rest, 1) : of(group, whole)};
}

}  // namespace

cuda::KernelRequest request(const ConfigChoice& choice) {
  return {choice.name(), "src/cuda/sm90/attention_forward/kernel.cuh",
          "bsk::sm90::attention_forward::attention_forward", choice.type_name(), "90a"};
}

std::string ConfigChoice::type_name() const {
  static const char* const masks[] = {"kNone",     "kBool",    "kFloat16",
                                      "kBFloat16", "kFloat32", "kKeys"};
  std::string text = "bsk::sm90::attention_forward::Config<";
  text += element_type_name(element);
  for (const int value :
       {shape.head_dim, shape.v_head_dim, shape.consumers, shape.kv_tile, shape.block_keys}) {
    text.append(", ").append(std::to_string(value));
  }
  text += transform ? ", true" : ", false";
  text += std::string(", bsk::tile::MaskType::") + masks[static_cast<int>(mask)];
  text += takes_turns ? ", true" : ", false";
  text += chained ? ", true" : ", false";
  if (shape.mask_group > 1) text.append(", ").append(std::to_string(shape.mask_group));
  return text + ">";
}

std::string ConfigChoice::name() const {
  static const char* const masks[] = {"",           "_bool_mask", "_fp16_mask",
                                      "_bf16_mask", "_fp32_mask", "_key_mask"};
  std::string text = "sm90_attention_forward_d" + std::to_string(shape.head_dim);
  if (shape.v_head_dim != shape.head_dim) text.append("v").append(std::to_string(shape.v_head_dim));
  text += std::string("_") + element_name(element) + "_q" + std::to_string(shape.q_tile()) + "k" +
          std::to_string(shape.kv_tile);
  if (shape.block_keys != shape.kv_tile)
    text.append("_block").append(std::to_string(shape.block_keys));
  if (takes_turns) text += "_turns";
  if (chained) text += "_chained";
  const bool additive = shape.mask_bytes > 0 && mask != tile::MaskType::kBool;
  if (transform && !additive) text += "_scores";
  text += masks[static_cast<int>(mask)];
  return shape.mask_group > 1 ? text + "_groups" : text;
}

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device) {
  std::vector<std::string> found = common_reasons(problem, device);
  const auto need = [&found](bool holds, const std::string& reason) {
    if (!holds) found.push_back(reason);
  };
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

ConfigChoice choose_config(const AttentionProblem& problem, int multiprocessors) {
  ConfigChoice choice;
  choice.element = element_of(problem);
  choice.shape.head_dim = tile_columns(problem.head_dim());
  choice.shape.v_head_dim = tile_columns(problem.v_head_dim());
  choice.mask = mask_type(problem);
  if (choice.mask == tile::MaskType::kBool && mask_rows_repeat(problem)) {
    choice.mask = tile::MaskType::kKeys;
  }
  const bool tiles = choice.mask != tile::MaskType::kNone && choice.mask != tile::MaskType::kKeys;
  choice.shape.mask_bytes = tiles ? mask_element_bytes(choice.mask) : 0;
  if (tiles && !mask_is_copied(problem)) {
    choice.shape.mask_group = tile::rows_of_mask_group(choice.mask);
  }
  choice.transform = problem.mask_kind == MaskKind::kAdditive || problem.softcap > 0.0 ||
                     !scale_is_a_factor(problem);
  const BlockMaskLayout& lists = problem.block_mask;
  const int widest = std::max(choice.shape.head_dim, choice.shape.v_head_dim);
  if (lists.present) {
    choice.shape.consumers = lists.block_q / 64;
  } else {
    // Three warpgroups where scores, weights and O of a thread fit in 160 registers.
    choice.shape.consumers = widest <= 64 && !choice.transform && !tiles ? 3 : 2;
    // Time goes with the rows that the busiest multiprocessor computes, of which three consumers
    // take kThreeOverTwo of the time that two take (measured: 0.82 at 16k keys, 0.9 at 4k, 0.98 at
    // 1k).
    constexpr double kThreeOverTwo = 0.9;
    if (choice.shape.consumers == 3 &&
        static_cast<double>(busiest_rows(problem, 2, multiprocessors)) <
            kThreeOverTwo * static_cast<double>(busiest_rows(problem, 3, multiprocessors))) {
      choice.shape.consumers = 2;
    }
  }
  // 64 keys where 128 would not fit in a thread's registers, or with tiles of attn_mask in shared
  // memory.
  const bool one = choice.shape.consumers == 1, masked = choice.mask != tile::MaskType::kNone;
  const bool small = widest > 192 || (widest > 128 && (one || masked)) ||
                     (widest > 64 && one && tiles) || choice.shape.mask_bytes == 4;
  choice.shape.kv_tile = small ? 64 : 128;
  choice.shape.block_keys =
      lists.present ? std::min<int>(lists.block_k, choice.shape.kv_tile) : choice.shape.kv_tile;
  const int chains = chains_of(problem, multiprocessors);
  return completed(problem, choice, chains > 1 ? 2 : choice.shape.consumers, chains);
}

AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties& device) {
  const ConfigChoice choice = choose_config(problem, device.multiprocessors);
  const int64_t q_tiles = (problem.q_len() + choice.shape.q_tile() - 1) / choice.shape.q_tile();
  const int64_t tasks = q_tiles * problem.q_heads() * problem.batch();
  AttentionPlan plan;
  plan.kernel = &kKernel;
  plan.config = choice.name();
  plan.q_tile = choice.shape.q_tile();
  plan.kv_tile = choice.shape.kv_tile;
  plan.splits = chains_of(problem, device.multiprocessors);
  const int64_t together = device.multiprocessors * choice.shape.ctas_per_multiprocessor();
  if (lengths_differ(problem)) {
    // Persistent CTAs take about half of the tasks, in an even number of rounds; the others suffice
    // to even out what those got. Where two CTAs share a multiprocessor, one computes while the
    // other begins.
    const bool alone = choice.shape.ctas_per_multiprocessor() == 1;
    const int64_t rounds = alone ? (tasks + 2 * together) / (4 * together) * 2 : 0;
    plan.dealt = tasks - rounds * together;
    plan.tasks = plan.dealt + (rounds > 0 ? together : 0);
  } else {
    plan.tasks = std::min(tasks, together);
  }
  plan.threads = choice.shape.threads();
  plan.shared_bytes = choice.shape.shared_bytes();
  return plan;
}

Params make_params(const AttentionProblem& problem, const AttentionBuffers& buffers,
                   const ConfigChoice& choice, const AttentionPlan& plan) {
  Params params{};
  fill_common(problem, buffers, params);
  params.chains = plan.splits;
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
  params.mask = mask_tensor(problem, buffers);
  if (choice.shape.mask_bytes > 0) {
    params.mask_head_step = broadcast_step(problem.mask, 1);
    params.mask_batch_step = broadcast_step(problem.mask, 0);
    params.mask_rows = grouped_mask(problem, choice).rows;
  }

  tile::Schedule& schedule = params.schedule;
  schedule.q_tiles =
      static_cast<int32_t>((problem.q_len() + choice.shape.q_tile() - 1) / choice.shape.q_tile());
  schedule.heads = static_cast<int32_t>(problem.batch() * problem.q_heads());
  schedule.tasks = schedule.q_tiles * schedule.heads;
  schedule.longest_first = problem.causal != Causal::kNone;
  int64_t group = 1;
  if (schedule.longest_first) {
    const int64_t kv_head_bytes =
        2 * problem.kv_len() * (problem.head_dim() + problem.v_head_dim());
    const int64_t kv_heads =
        std::max<int64_t>(1, kL2ShareBytes / std::max<int64_t>(kv_head_bytes, 1));
    group = std::min<int64_t>(schedule.heads, kv_heads * params.q_heads_per_kv_head.value);
  }
  const int64_t rest = schedule.heads % group, first = rest > 0 ? rest : group;
  schedule.heads_per_group = divisor_of(group);
  schedule.heads_of_first = divisor_of(first);
  schedule.tasks_of_first = static_cast<int32_t>(first * schedule.q_tiles);
  schedule.group_tasks = divisor_of(group * schedule.q_tiles);
  schedule.persistent = static_cast<int32_t>(plan.tasks - plan.dealt);
  if (schedule.persistent > 0) {
    schedule.rounds = static_cast<int32_t>((schedule.tasks - plan.dealt + schedule.persistent - 1) /
                                           schedule.persistent);
  }
  return params;
}

TensorMapSpecs tensor_map_specs(const AttentionProblem& problem, const ConfigChoice& choice) {
  TensorMapSpecs specs = {tensor_map_spec("q", problem.q, 64),
                          tensor_map_spec("k", problem.k, choice.shape.block_keys),
                          tensor_map_spec("v", problem.v, choice.shape.block_keys)};
  for (const cuda::TensorMapSpec& spec : mask_map_specs(problem, choice)) specs.push_back(spec);
  return specs;
}

std::unique_ptr<PreparedLaunch> prepare(const AttentionProblem& problem,
                                        const AttentionPlan& plan) {
  if (plan.tasks == 0) return nullptr;
  // The plan's tile size tells which of the configurations for this problem it chose.
  const ConfigChoice choice =
      completed(problem, choose_config(problem, 1), plan.q_tile / 64, plan.splits);
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>(plan.tasks);
  shape.threads = static_cast<uint32_t>(plan.threads);
  shape.shared_bytes = plan.shared_bytes;
  shape.programmatic_dependent_launch = true;
  return prepare_launch(problem, make_params(problem, {}, choice, plan),
                        tensor_map_specs(problem, choice), request(choice), shape);
}

const Kernel kKernel = {"sm90_attention_forward",
                        "Hopper, any length: copies and products in different warps",
                        reasons,
                        make_plan,
                        prepare,
                        /*only_when_forced=*/false};

namespace {

// The configurations of dense problems like `plain`'s with an attn_mask: of keys, bool, and
// additive of the problem's dtype.
std::vector<ConfigChoice> with_masks(const ConfigChoice& plain) {
  std::vector<ConfigChoice> choices;
  ConfigChoice choice = plain;
  choice.mask = tile::MaskType::kKeys;
  choice.takes_turns = choice.shape.head_dim <= 64;
  choices.push_back(choice);
  if (choice.takes_turns) {
    choice.takes_turns = false;
    choice.shape.consumers = 3;
    choices.push_back(choice);
  }
  choice.shape.consumers = 2;
  const tile::MaskType additive = choice.element == arch::Element::kFloat16
                                      ? tile::MaskType::kFloat16
                                      : tile::MaskType::kBFloat16;
  for (const tile::MaskType mask : {tile::MaskType::kBool, additive}) {
    choice.mask = mask;
    choice.shape.mask_bytes = mask_element_bytes(mask);
    choice.transform = mask == additive;
    for (const int group : {1, tile::rows_of_mask_group(mask)}) {
      choice.shape.mask_group = group;
      choices.push_back(choice);
    }
  }
  return choices;
}

}  // namespace

std::vector<cuda::KernelRequest> documented_requests() {
  std::vector<cuda::KernelRequest> requests;
  for (const arch::Element element : {arch::Element::kFloat16, arch::Element::kBFloat16}) {
    for (const int columns : {64, 128}) {
      ConfigChoice choice{element, {columns, columns, columns == 64 ? 3 : 2, 128, 128}};
      requests.push_back(request(choice));
      choice.shape.consumers = 2;
      if (columns == 64) {
        requests.push_back(request(choice));  // block masks
        choice.takes_turns = true;
        requests.push_back(request(choice));
        choice.chained = true;
        requests.push_back(request(choice));
        choice.takes_turns = choice.chained = false;
      }
      for (const ConfigChoice& masked : with_masks(choice)) requests.push_back(request(masked));
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
