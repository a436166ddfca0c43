// Host side of the split kernel. See launch.h.
#include "src/cuda/sm90/attention_forward_split/launch.h"

#include <algorithm>
#include <bit>

#include "src/cuda/sm90/prepared_launch.h"

namespace bsk::sm90::attention_forward_split {
namespace {

// Up to here K and V take longer to come from memory than tiles of 64 rows take to multiply,
// however large the batch: two tiles need about 1400 of the 2400 clocks in which a multiprocessor's
// share of the bandwidth brings 32 KB.
constexpr int64_t kMaxRows = 2 * kManyRows;  // q_len * group
// Below this one CTA holds all keys, or the merge costs what the split gains.
constexpr int64_t kMinKeys = 256;
constexpr int64_t kFewKeys = 1024;  // of a share

int64_t group_of(const AttentionProblem& problem) {
  return problem.q_heads() / std::max<int64_t>(problem.kv_heads(), 1);
}

// Of a tile: all that a KV head has, if a warp's product takes them.
int tile_rows(const AttentionProblem& problem) {
  return problem.q_len() * group_of(problem) <= kFewRows ? kFewRows : kManyRows;
}

int64_t clusters(const AttentionProblem& problem) {  // of one batch entry
  const Packing packing = pack_rows(problem);
  return problem.kv_heads() * packing.head_tiles * packing.q_tiles;
}

// How many CTAs a cluster has, a power of two.
struct ClusterSizes {
  int64_t kv_len;
  bool few_rows;
  int multiprocessors;

  // Keys of a share. Each costs a batch half a microsecond; of a few shares one batch entry gains
  // more.
  int64_t least_keys(int shares) const { return few_rows && shares <= 4 ? 128 : 256; }

  // The most for so many clusters on so many places.
  int most(int64_t clusters, int limit, int64_t places) const {
    int ctas = 1;
    while (2 * ctas <= limit && clusters * 2 * ctas <= places &&
           kv_len >= least_keys(2 * ctas) * 2 * ctas) {
      ctas *= 2;
    }
    return ctas;
  }
  // Half of the multiprocessors draw all that memory gives. With more clusters some would find no
  // GPC with enough free ones; the CTAs that shared one would keep all others waiting. Pairs always
  // find a place.
  int usual(int64_t clusters) const {
    return std::max(most(clusters, 2, multiprocessors),
                    most(clusters, 16, multiprocessors - multiprocessors / 16));
  }
  // Twice as many where keys are few: L2 may hold them, which gives more than memory.
  int of_few_keys(int64_t clusters) const {
    const int ctas = usual(clusters);
    return ctas > 4 || kv_len > kFewKeys * ctas ? ctas : most(clusters, 2 * ctas, multiprocessors);
  }
};

// How a CTA with so many shares uses its shared memory, if so many CTAs are on a multiprocessor.
struct Layout {
  int stages = 0;         // 0: it does not fit
  bool together = false;  // Params::parts_together
  int bytes = 0;
};
Layout lay_out(const Shape& shape, int used_rows, int shares, int each) {
  // The parts of one share lie where the rings were.
  if (shares == 1) return {shape.stages(), false, shape.shared_bytes(shape.stages())};
  for (const bool together : {true, false}) {
    const int parts = shape.warp_parts_bytes(used_rows, together ? shares : 1) +
                      shares * shape.part_bytes(used_rows);
    const int stages = std::min(shape.stages(), shape.stages_if(each, parts));
    if (stages < Shape::kLeastStages || (together && each > 1)) continue;
    return {stages, together, shape.shared_bytes(stages, parts)};
  }
  return each > 1 ? lay_out(shape, used_rows, shares, 1) : Layout{};
}

int64_t planned_ctas(const AttentionProblem& problem, const AttentionPlan& plan) {  // of a cluster
  return plan.tasks / (clusters(problem) * problem.batch());
}

cuda::KernelRequest request(const ConfigChoice& choice) {
  return {choice.name(), "src/cuda/sm90/attention_forward_split/kernel.cuh",
          "bsk::sm90::attention_forward_split::attention_forward_split", choice.type_name(), "90a"};
}

}  // namespace

std::string ConfigChoice::type_name() const {
  static const char* const masks[] = {"kNone", "kBool", "kFloat16", "kBFloat16", "kFloat32"};
  std::string text = "bsk::sm90::attention_forward_split::Config<";
  text += element_type_name(element);
  for (const int value : {shape.head_dim, shape.v_head_dim, shape.kv_tile, shape.rows}) {
    text.append(", ").append(std::to_string(value));
  }
  text += transform ? ", true" : ", false";
  return text + ", bsk::tile::MaskType::" + masks[static_cast<int>(mask)] + ">";
}

std::string ConfigChoice::name() const {
  static const char* const masks[] = {"", "_bool_mask", "_fp16_mask", "_bf16_mask", "_fp32_mask"};
  std::string text = "sm90_attention_forward_split_d" + std::to_string(shape.head_dim);
  if (shape.v_head_dim != shape.head_dim) text.append("v").append(std::to_string(shape.v_head_dim));
  text += std::string("_") + element_name(element) + "_k" + std::to_string(shape.kv_tile);
  if (shape.rows == kFewRows) text += "_few_rows";
  if (transform && mask == tile::MaskType::kNone) text += "_scores";
  return text + masks[static_cast<int>(mask)];
}

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device) {
  std::vector<std::string> found = common_reasons(problem, device);
  const auto need = [&found](bool holds, const std::string& reason) {
    if (!holds) found.push_back(reason);
  };
  need(!problem.block_mask.present, "takes no block_mask");
  const int64_t rows = problem.q_len() * group_of(problem);
  need(rows <= kMaxRows, "needs at most " + std::to_string(kMaxRows) +
                             " query rows per KV head (q_len * q_heads / kv_heads), not " +
                             std::to_string(rows));
  need(problem.kv_len() > kMinKeys, "needs more than " + std::to_string(kMinKeys) + " keys, not " +
                                        std::to_string(problem.kv_len()));
  need(problem.mask_kind == MaskKind::kNone || problem.mask.shape[3] == 1 ||
           problem.mask.stride[3] * problem.kv_len() < int64_t{1} << 31,
       "needs an attn_mask whose rows span less than 2^31 elements");
  need(problem.kv_heads() <= 65535, "needs at most 65535 KV heads");
  need(group_of(problem) <= 1 || problem.q.stride[1] != 0,
       "needs heads of q that do not repeat (stride 0) where they share a KV head");
  return found;
}

ConfigChoice choose_config(const AttentionProblem& problem) {
  ConfigChoice choice;
  choice.element = element_of(problem);
  choice.shape.head_dim = tile_columns(problem.head_dim());
  choice.shape.v_head_dim = tile_columns(problem.v_head_dim());
  choice.shape.rows = tile_rows(problem);
  choice.mask = mask_type(problem);
  choice.transform =
      choice.mask != tile::MaskType::kNone || problem.softcap > 0.0 || !scale_is_a_factor(problem);
  // Stages of 16 KB at head_dim 64 and 128 without a mask. What is done to scores one by one takes
  // registers, of which many scores and wide rows of O leave few.
  const int widest = std::max(choice.shape.head_dim, choice.shape.v_head_dim);
  const bool few = choice.shape.rows == kFewRows;
  const bool masked = choice.mask != tile::MaskType::kNone;
  choice.shape.kv_tile = widest <= 64 && (few || !choice.transform) ? 128
                         : widest > 64 && masked && !few            ? 32
                                                                    : 64;
  return choice;
}

Packing pack_rows(const AttentionProblem& problem) {
  const auto ceil_div = [](int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); };
  const int64_t group = std::max<int64_t>(group_of(problem), 1);
  const int64_t q_len = std::max<int64_t>(problem.q_len(), 1);
  const int rows = tile_rows(problem);
  Packing packing;
  packing.head_tiles = ceil_div(group, rows);
  packing.heads = ceil_div(group, packing.head_tiles);
  packing.q_tiles = ceil_div(q_len, rows / packing.heads);
  packing.queries = ceil_div(q_len, packing.q_tiles);
  return packing;
}

AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties& device) {
  const ConfigChoice choice = choose_config(problem);
  AttentionPlan plan;
  plan.kernel = &kKernel;
  plan.config = choice.name();
  const Packing packing = pack_rows(problem);
  plan.q_tile = packing.heads * packing.queries;
  plan.kv_tile = choice.shape.kv_tile;
  const Shape& shape = choice.shape;
  const int64_t tiles = clusters(problem),
                all_tiles = tiles * std::max<int64_t>(problem.batch(), 1);
  const bool few = shape.rows == kFewRows;
  const ClusterSizes sizes{problem.kv_len(), few, device.multiprocessors};
  plan.splits = sizes.of_few_keys(tiles);
  int ctas = plan.splits;
  // More pay only if each has one share, whose parts need no room, of which those of many rows take
  // too much.
  if (few && sizes.of_few_keys(all_tiles) < ctas) ctas = sizes.usual(all_tiles);
  for (;; ctas *= 2) {
    const bool one_wave = all_tiles * ctas <= device.multiprocessors;
    const Layout layout = lay_out(shape, plan.q_tile, plan.splits / ctas,
                                  one_wave ? 1 : shape.ctas_per_multiprocessor());
    plan.shared_bytes = layout.bytes;
    if (layout.stages > 0) break;
  }
  plan.tasks = problem.q_len() == 0 ? 0 : tiles * problem.batch() * ctas;
  plan.threads = choice.shape.threads();
  return plan;
}

Params make_params(const AttentionProblem& problem, const AttentionBuffers& buffers,
                   const AttentionPlan& plan) {
  Params params{};
  fill_common(problem, buffers, params);
  const auto log2 = [](int64_t power) { return std::countr_zero(static_cast<uint64_t>(power)); };
  const int64_t ctas = planned_ctas(problem, plan);
  params.splits_log2 = log2(plan.splits);
  params.ctas_log2 = log2(ctas);
  const Packing packing = params.packing = pack_rows(problem);
  params.by_heads = tile::Divisor(packing.heads);
  params.by_head_tiles = tile::Divisor(packing.head_tiles);
  params.by_tiles = tile::Divisor(packing.head_tiles * packing.q_tiles);
  const Shape shape = choose_config(problem).shape;
  const int shares = plan.splits / static_cast<int>(ctas);
  const int used_rows = packing.heads * packing.queries;
  Layout layout = lay_out(shape, used_rows, shares, 1);
  if (layout.bytes != plan.shared_bytes) layout = lay_out(shape, used_rows, shares, 2);
  params.stages = layout.stages;
  params.parts_together = layout.together;
  params.warp_parts = shares == 1 ? 0 : shape.groups() * layout.stages * shape.stage_bytes();
  params.share_parts =
      params.warp_parts + shape.warp_parts_bytes(used_rows, layout.together ? shares : 1);
  params.transform = {static_cast<float>(problem.scale), static_cast<float>(problem.softcap)};
  params.mask = mask_tensor(problem, buffers);
  return params;
}

TensorMapSpecs tensor_map_specs(const AttentionProblem& problem, const ConfigChoice& choice) {
  const Packing packing = pack_rows(problem);
  const int64_t group = group_of(problem);
  cuda::TensorMapSpec q;
  q.name = "q";
  q.dtype = problem.q.dtype;
  q.rank = 5;
  q.dims = {problem.head_dim(), group, problem.q_len(),
            broadcast_step(problem.q, 1) == 0 ? 1 : problem.kv_heads(),
            broadcast_step(problem.q, 0) == 0 ? 1 : problem.batch()};
  q.strides = {1, problem.q.stride[1], problem.q.stride[2], group * problem.q.stride[1],
               problem.q.stride[0]};
  q.box = {arch::kSwizzleElements, packing.heads, packing.queries, 1, 1};
  TensorMapSpecs specs = {q, tensor_map_spec("k", problem.k, choice.shape.kv_tile),
                          tensor_map_spec("v", problem.v, choice.shape.kv_tile)};
  // Rows of 256 bytes come in two boxes; the first one brings both into L2.
  specs[1].l2_promotion = specs[2].l2_promotion = cuda::L2Promotion::k256Bytes;
  return specs;
}

std::unique_ptr<PreparedLaunch> prepare(const AttentionProblem& problem,
                                        const AttentionPlan& plan) {
  if (plan.tasks == 0) return nullptr;
  const ConfigChoice choice = choose_config(problem);
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>(plan.tasks / problem.kv_heads());
  shape.grid[1] = static_cast<uint32_t>(problem.kv_heads());
  shape.cluster[0] = static_cast<uint32_t>(planned_ctas(problem, plan));
  shape.threads = static_cast<uint32_t>(plan.threads);
  shape.shared_bytes = plan.shared_bytes;
  shape.programmatic_dependent_launch = true;
  return prepare_launch(problem, make_params(problem, {}, plan), tensor_map_specs(problem, choice),
                        request(choice), shape);
}

const Kernel kKernel = {"sm90_attention_forward_split",
                        "Hopper, few queries against many keys: the CTAs of a cluster share the "
                        "keys",
                        reasons,
                        make_plan,
                        prepare,
                        /*only_when_forced=*/false};

std::vector<cuda::KernelRequest> documented_requests() {
  std::vector<cuda::KernelRequest> requests;
  for (const arch::Element element : {arch::Element::kFloat16, arch::Element::kBFloat16}) {
    for (const int columns : {64, 128}) {
      for (const int rows : {kFewRows, kManyRows}) {
        requests.push_back(request({element, {columns, columns, columns == 64 ? 128 : 64, rows}}));
      }
    }
  }
  return requests;
}

}  // namespace bsk::sm90::attention_forward_split
