// Host side of the throughput kernel. See launch.h.
#include "src/cuda/sm90/attention_forward/launch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "src/cuda/sm90/attention_forward/task_times.h"
#include "src/cuda/sm90/prepared_launch.h"

namespace bsk::sm90::attention_forward {
namespace {

// Bytes of K and V that a group of heads may keep in L2 together (50 MB on H100 and H200, which
// also hold Q, O and what other kernels left).
constexpr int64_t kL2ShareBytes = int64_t{24} << 20;
// The same of heads that are read a few times, by the same multiprocessor each.
constexpr int64_t kL2Bytes = int64_t{40} << 20;

bool mask_rows_repeat(const AttentionProblem& problem) {
  return problem.mask.shape[2] == 1 || problem.mask.stride[2] == 0;
}

// Whether batch entries have masks of keys of their own, of which the host knows nothing.
bool padding_differs(const AttentionProblem& problem) {
  return problem.mask_kind == MaskKind::kBool && mask_rows_repeat(problem) && problem.batch() > 1 &&
         broadcast_step(problem.mask, 0) != 0;
}

// Where the keys per tile of queries differ much, the hardware deals tiles out, one CTA each, to
// multiprocessors as they become free; where they are equal or short, or planned on the device,
// persistent CTAs save the prologues.
bool lengths_differ(const AttentionProblem& problem) {
  if (problem.kv_len() < 2048) return false;
  const bool window_is_short =
      problem.window_left >= 0 && problem.window_left < problem.kv_len() / 2;
  return padding_differs(problem) || (problem.causal != Causal::kNone && !window_is_short) ||
         (problem.block_mask.present && problem.block_mask.block_q == 64);
}

// Of K and V.
int64_t kv_head_bytes(const AttentionProblem& problem) {
  return 2 * problem.kv_len() * (problem.head_dim() + problem.v_head_dim());
}

// Heads whose tasks are numbered together, the longest first (tile/scheduler.cuh).
int64_t heads_together(const AttentionProblem& problem) {
  if (problem.causal == Causal::kNone) return 1;
  const int64_t kv_heads =
      std::max<int64_t>(1, kL2ShareBytes / std::max<int64_t>(kv_head_bytes(problem), 1));
  const int64_t heads_per_kv_head = problem.q_heads() / std::max<int64_t>(problem.kv_heads(), 1);
  return std::clamp<int64_t>(kv_heads * heads_per_kv_head, 1,
                             std::max<int64_t>(problem.batch() * problem.q_heads(), 1));
}

// Whether persistent CTAs even out what they get.
bool persistent_even_out(const AttentionProblem& problem, const Shape& shape, int64_t ctas) {
  return !padding_differs(problem) && !problem.block_mask.present &&
         evens_out(problem, shape.q_tile(), heads_together(problem), ctas);
}

// Whether tiles of 64 rows may be shared out evenly, to CTAs whose three consumers each take every
// third: where keys are few. Then each CTA is at another head, and finds its K and V in L2 all the
// same.
bool may_share_rows(const AttentionProblem& problem, const ConfigChoice& choice,
                    int multiprocessors) {
  const int64_t kv_heads = problem.batch() * problem.kv_heads();
  const int64_t bytes = std::min<int64_t>(kv_heads, multiprocessors) * kv_head_bytes(problem);
  return choice.mask == tile::MaskType::kNone && !choice.transform && !lengths_differ(problem) &&
         bytes <= kL2Bytes;
}

// Whether neither a causal mask nor a window leaves out keys.
bool sees_all_keys(const AttentionProblem& problem) {
  return problem.causal == Causal::kNone && problem.window_left < 0 && problem.window_right < 0;
}

// Whether the copy engine can bring attn_mask's tiles: it reads from multiples of 16 bytes on only.
bool mask_is_aligned(const AttentionProblem& problem) {
  const TensorLayout& mask = problem.mask;
  if (mask.address_alignment < 16 || mask.shape[3] != problem.kv_len()) return false;
  for (int i = 0; i < 3; ++i) {
    if (mask.shape[i] > 1 &&
        (mask.stride[i] < 0 || mask.stride[i] * bytes_per_element(mask.dtype) % 16 != 0)) {
      return false;
    }
  }
  return mask.shape[3] == 1 || mask.stride[3] == 1;
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

// Keys of a tile: 128, or fewer where so many would not fit in a thread's registers or, with tiles
// of attn_mask, in shared memory.
int keys_of_tile(const ConfigChoice& choice, bool block_mask) {
  const Shape& shape = choice.shape;
  const int widest = std::max(shape.head_dim, shape.v_head_dim);
  const bool one = shape.consumers == 1, masked = choice.mask != tile::MaskType::kNone;
  if (shape.mask_unaligned && widest > 192) return 32;
  if (widest > 192 || (widest > 128 && (one || masked)) ||
      (widest > 64 && one && shape.mask_bytes > 0) || shape.mask_bytes == 4) {
    return 64;
  }
  // Blocks of a list are of 16 to 128 keys, of which 96 is no multiple.
  if (shape.mask_unaligned && shape.mask_bytes == 2 && widest > 64) return block_mask ? 64 : 96;
  return 128;
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
  text += shape.shares_rows ? ", true" : ", false";
  text += shape.chained ? ", true" : ", false";
  // Up to the last that is not the default.
  std::string written;
  for (const bool flag : {shape.mask_unaligned, shape.plans_tasks, shape.skips_unseen}) {
    written += flag ? ", true" : ", false";
    if (flag) text += std::exchange(written, {});
  }
  return text + ">";
}

std::string ConfigChoice::name() const {
  static const char* const masks[] = {"",           "_bool_mask", "_fp16_mask",
                                      "_bf16_mask", "_fp32_mask", "_key_mask"};
  std::string text = "sm90_attention_forward_d" + std::to_string(shape.head_dim);
  if (shape.v_head_dim != shape.head_dim) text.append("v").append(std::to_string(shape.v_head_dim));
  text += std::string("_") + element_name(element) + "_q" + std::to_string(shape.q_tile()) + "k" +
          std::to_string(shape.kv_tile);
  if (shape.block_keys != shape.kv_tile || shape.plans_tasks)
    text.append("_block").append(std::to_string(shape.block_keys));
  if (shape.plans_tasks) text += "_planned";
  if (shape.chained) {
    text += shape.skips_unseen ? "_chained_skipping" : "_chained";
  } else if (shape.shares_rows) {
    text += "_shared";
  }
  const bool additive = shape.mask_bytes > 0 && mask != tile::MaskType::kBool;
  if (transform && !additive) text += "_scores";
  text += masks[static_cast<int>(mask)];
  return shape.mask_unaligned ? text + "_unaligned" : text;
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

namespace {

// All but the choice between two and three consumers, and chains. Three warpgroups where scores,
// weights and O of a thread fit in 160 registers.
ConfigChoice base_config(const AttentionProblem& problem) {
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
  choice.shape.mask_unaligned = tiles && !mask_is_aligned(problem);
  choice.transform = problem.mask_kind == MaskKind::kAdditive || problem.softcap > 0.0 ||
                     !scale_is_a_factor(problem);
  const BlockMaskLayout& lists = problem.block_mask;
  const int widest = std::max(choice.shape.head_dim, choice.shape.v_head_dim);
  choice.shape.consumers = lists.present                                 ? lists.block_q / 64
                           : widest <= 64 && !choice.transform && !tiles ? 3
                                                                         : 2;
  choice.shape.kv_tile = keys_of_tile(choice, lists.present);
  choice.shape.block_keys =
      lists.present ? std::min<int>(lists.block_k, choice.shape.kv_tile) : choice.shape.kv_tile;
  // The warp that plans has nothing else to do, and all that is listed is visible.
  choice.shape.plans_tasks = lists.present && choice.shape.consumers == 2 &&
                             choice.mask == tile::MaskType::kNone && sees_all_keys(problem);
  return choice;
}

// The configuration with so many consumers, for keys in so many chains.
ConfigChoice completed(const AttentionProblem& problem, int consumers, bool shares_rows,
                       int chains) {
  ConfigChoice choice = base_config(problem);
  choice.shape.consumers = consumers;
  choice.shape.shares_rows = shares_rows;
  choice.shape.chained = chains > 1;
  choice.shape.skips_unseen = chains > 1 && !sees_all_keys(problem);
  return choice;
}

}  // namespace

ConfigChoice choose_config(const AttentionProblem& problem, int multiprocessors) {
  const ConfigChoice choice = base_config(problem);
  const int chains = chains_of(problem, multiprocessors);
  int consumers = choice.shape.consumers;
  bool shares_rows = chains > 1;
  if (consumers == 3 && chains == 1) {
    double time = time_of_tasks(problem, 3, multiprocessors);
    if (may_share_rows(problem, choice, multiprocessors)) {
      const double shared = time_of_shares(problem, multiprocessors);
      shares_rows = shared < time;
      time = std::min(time, shared);
    }
    constexpr double kSure = 0.98;  // two are preferred where it makes no difference
    if (kSure * time_of_tasks(problem, 2, multiprocessors) < time) {
      consumers = 2;
      shares_rows = false;
    }
  }
  return completed(problem, consumers, shares_rows, chains);
}

AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties& device) {
  const ConfigChoice choice = choose_config(problem, device.multiprocessors);
  const int64_t tasks =
      q_tiles(problem, choice.shape.q_tile()) * problem.q_heads() * problem.batch();
  AttentionPlan plan;
  plan.kernel = &kKernel;
  plan.config = choice.name();
  plan.q_tile = choice.shape.q_tile();
  plan.kv_tile = choice.shape.kv_tile;
  plan.splits = chains_of(problem, device.multiprocessors);
  const int64_t together = device.multiprocessors * choice.shape.ctas_per_multiprocessor();
  if (choice.shape.shares_rows) {
    const RowShares shares = share_rows(problem, device.multiprocessors);
    plan.row_tiles = shares.row_tiles;
    plan.tasks = shares.ctas;
  } else if (choice.shape.plans_tasks) {
    plan.tasks = std::min<int64_t>({tasks, together, kPlannedCtas});
  } else if (lengths_differ(problem) && !persistent_even_out(problem, choice.shape, together)) {
    // Persistent CTAs take about half of the tasks, in an even number of rounds; the others suffice
    // to even out what those got. Where two CTAs share a multiprocessor, one computes while the
    // other begins.
    const bool mixes = choice.shape.ctas_per_multiprocessor() == 1 && mixes_dealing(choice.shape);
    const int64_t rounds = mixes ? (tasks + 2 * together) / (4 * together) * 2 : 0;
    plan.dealt = rounds > 0 ? tasks - rounds * together : 0;
    plan.tasks = rounds > 0 ? together + plan.dealt : tasks;  // a CTA for each: one round of all
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
    lists.heads_per_list = divisor_of(problem.q_heads() / std::max<int64_t>(layout.heads, 1));
  }
  params.transform = {static_cast<float>(problem.scale), static_cast<float>(problem.softcap)};
  params.mask = mask_tensor(problem, buffers);
  if (choice.shape.mask_bytes > 0) {
    params.mask_head_step = broadcast_step(problem.mask, 1);
    params.mask_batch_step = broadcast_step(problem.mask, 0);
  }

  tile::Schedule& schedule = params.schedule;
  if (plan.row_tiles > 0) {
    schedule.q_tiles = static_cast<int32_t>(q_tiles(problem, 64));
    schedule.tasks = static_cast<int32_t>(row_tiles(problem));
    schedule.group_tasks = divisor_of(schedule.q_tiles);
    schedule.persistent = static_cast<int32_t>(plan.tasks);
    const int64_t back = from_back(problem, plan.row_tiles);
    schedule.row_tiles_back = static_cast<int32_t>(back);
    schedule.row_tiles_front = static_cast<int32_t>(plan.row_tiles - back);
    return params;
  }
  schedule.q_tiles = static_cast<int32_t>(q_tiles(problem, choice.shape.q_tile()));
  schedule.heads = static_cast<int32_t>(problem.batch() * problem.q_heads());
  schedule.tasks = schedule.q_tiles * schedule.heads;
  schedule.longest_first = problem.causal != Causal::kNone;
  const int64_t group = heads_together(problem);
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
  TensorMapSpecs specs = {tensor_map_spec("q", problem.q, choice.shape.q_box_rows()),
                          tensor_map_spec("k", problem.k, choice.shape.block_keys),
                          tensor_map_spec("v", problem.v, choice.shape.block_keys)};
  if (choice.shape.mask_bytes > 0 && !choice.shape.mask_unaligned) {
    specs.push_back(mask_map_spec(problem, choice));
  }
  return specs;
}

std::unique_ptr<PreparedLaunch> prepare(const AttentionProblem& problem,
                                        const AttentionPlan& plan) {
  if (plan.tasks == 0) return nullptr;
  // The plan's tile size tells which of the configurations for this problem it chose.
  const ConfigChoice choice = completed(problem, plan.q_tile / 64, plan.row_tiles > 0, plan.splits);
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
  choices.push_back(choice);
  if (choice.shape.head_dim <= 64) {
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
    for (const bool unaligned : {false, true}) {
      choice.shape.mask_unaligned = unaligned;
      choice.shape.kv_tile = choice.shape.block_keys = keys_of_tile(choice, /*block_mask=*/false);
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
        requests.push_back(request(choice));
        ConfigChoice shared = choice;
        shared.shape.consumers = 3;
        shared.shape.shares_rows = true;
        requests.push_back(request(shared));
        shared.shape.chained = true;
        for (const bool skips : {false, true}) {
          shared.shape.skips_unseen = skips;
          requests.push_back(request(shared));
        }
      }
      for (const ConfigChoice& masked : with_masks(choice)) requests.push_back(request(masked));
      choice.shape.block_keys = 64;
      for (const int consumers : {1, 2}) {
        choice.shape.consumers = consumers;
        requests.push_back(request(choice));
      }
      choice.shape.plans_tasks = true;
      for (const int block_keys : {64, 128}) {
        choice.shape.block_keys = block_keys;
        requests.push_back(request(choice));
      }
    }
  }
  return requests;
}

}  // namespace bsk::sm90::attention_forward
