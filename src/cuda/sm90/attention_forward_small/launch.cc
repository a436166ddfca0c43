// Host side of the latency kernel. See launch.h.
#include "src/cuda/sm90/attention_forward_small/launch.h"

#include "src/cuda/sm90/prepared_launch.h"

namespace bsk::sm90::attention_forward_small {
namespace {

int64_t q_tiles(const AttentionProblem& problem, const Shape& shape) {
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): every shape has rows
  return (problem.q_len() + shape.q_tile() - 1) / shape.q_tile();
}

bool holds(const Shape& shape, const AttentionProblem& problem) {
  return problem.head_dim() <= shape.head_dim && problem.v_head_dim() <= shape.v_head_dim &&
         problem.kv_len() <= int64_t{shape.tiles} * shape.kv_tile;
}

// The first shape that holds the problem in one wave; null if there is none.
const Shape* find_shape(const AttentionProblem& problem, int multiprocessors) {
  static const std::vector<Shape> all = shapes();
  for (const Shape& shape : all) {
    const int64_t ctas = q_tiles(problem, shape) * problem.q_heads() * problem.batch();
    if (holds(shape, problem) && ctas <= multiprocessors) return &shape;
  }
  return nullptr;
}

cuda::KernelRequest request(const ConfigChoice& choice) {
  return {choice.name(), "src/cuda/sm90/attention_forward_small/kernel.cuh",
          "bsk::sm90::attention_forward_small::attention_forward_small", choice.type_name(), "90a"};
}

}  // namespace

std::vector<Shape> shapes() {
  return {
      // head_dim, v_head_dim, row groups, key groups, keys of a tile, tiles
      {64, 64, 1, 2, 64, 2},    // up to 128 keys: a short launch of 256 threads
      {64, 64, 1, 4, 128, 4},   // up to 512 keys, 64 rows a CTA
      {64, 64, 2, 2, 128, 4},   // 128 rows a CTA
      {128, 128, 1, 2, 64, 2},  // up to 128 keys
      {128, 128, 1, 4, 64, 4},  // up to 256 keys
      {128, 128, 2, 2, 64, 4},
  };
}

std::string ConfigChoice::type_name() const {
  std::string text = "bsk::sm90::attention_forward_small::Config<";
  text += element_type_name(element);
  for (const int value : {shape.head_dim, shape.v_head_dim, shape.row_groups, shape.key_groups,
                          shape.kv_tile, shape.tiles}) {
    text.append(", ").append(std::to_string(value));
  }
  return text + ">";
}

std::string ConfigChoice::name() const {
  return "sm90_attention_forward_small_d" + std::to_string(shape.head_dim) + "_" +
         element_name(element) + "_q" + std::to_string(shape.q_tile()) + "k" +
         std::to_string(shape.kv_tile) + "x" + std::to_string(shape.tiles);
}

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device) {
  std::vector<std::string> found = common_reasons(problem, device);
  const auto need = [&found](bool holds, const std::string& reason) {
    if (!holds) found.push_back(reason);
  };
  need(problem.mask_kind == MaskKind::kNone, "takes no attn_mask");
  need(!problem.block_mask.present, "takes no block_mask");
  need(problem.softcap == 0.0, "takes no softcap");
  need(problem.scale > 0.0, "needs a positive scale");
  need(find_shape(problem, device.multiprocessors) != nullptr,
       "needs head_dim up to 128, up to 512 keys (256 above head_dim 64), and few enough queries "
       "for one wave of " +
           std::to_string(device.multiprocessors) + " CTAs");
  return found;
}

ConfigChoice choose_config(const AttentionProblem& problem, int multiprocessors) {
  const Shape* const shape = find_shape(problem, multiprocessors);
  return {element_of(problem), shape == nullptr ? Shape{} : *shape};
}

AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties& device) {
  const ConfigChoice choice = choose_config(problem, device.multiprocessors);
  AttentionPlan plan;
  plan.kernel = &kKernel;
  plan.config = choice.name();
  plan.q_tile = choice.shape.q_tile();
  plan.kv_tile = choice.shape.kv_tile;
  plan.tasks = q_tiles(problem, choice.shape) * problem.q_heads() * problem.batch();
  plan.threads = choice.shape.threads();
  plan.splits = choice.shape.key_groups;
  plan.shared_bytes = choice.shape.shared_bytes();
  return plan;
}

Params make_params(const AttentionProblem& problem, const AttentionBuffers& buffers,
                   const ConfigChoice& choice) {
  Params params{};
  fill_common(problem, buffers, params);
  params.q_tiles = divisor_of(q_tiles(problem, choice.shape));
  return params;
}

std::array<cuda::TensorMapSpec, 3> tensor_map_specs(const AttentionProblem& problem,
                                                    const ConfigChoice& choice) {
  return {tensor_map_spec("q", problem.q, 64),
          tensor_map_spec("k", problem.k, choice.shape.kv_tile),
          tensor_map_spec("v", problem.v, choice.shape.kv_tile)};
}

std::unique_ptr<PreparedLaunch> prepare(const AttentionProblem& problem,
                                        const AttentionPlan& plan) {
  if (plan.tasks == 0) return nullptr;
  // The number of CTAs is a wave that the plan found to fit.
  const ConfigChoice choice = choose_config(problem, static_cast<int>(plan.tasks));
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>(plan.tasks);
  shape.threads = static_cast<uint32_t>(plan.threads);
  shape.shared_bytes = plan.shared_bytes;
  shape.programmatic_dependent_launch = true;
  return prepare_launch(problem, make_params(problem, {}, choice),
                        tensor_map_specs(problem, choice), request(choice), shape);
}

const Kernel kKernel = {"sm90_attention_forward_small",
                        "Hopper, problems of one wave: all keys of a CTA in shared memory at once "
                        "(compiled and emulated, never yet run on a GPU)",
                        reasons,
                        make_plan,
                        prepare,
                        /*only_when_forced=*/true};

std::vector<cuda::KernelRequest> documented_requests() {
  std::vector<cuda::KernelRequest> requests;
  for (const arch::Element element : {arch::Element::kFloat16, arch::Element::kBFloat16}) {
    for (const Shape& shape : shapes()) requests.push_back(request({element, shape}));
  }
  return requests;
}

}  // namespace bsk::sm90::attention_forward_small
