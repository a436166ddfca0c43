// Host side of the latency kernel. See launch.h.
#include "src/cuda/sm90/attention_forward_small/launch.h"

#include <algorithm>

#include "src/cuda/sm90/prepared_launch.h"

namespace bsk::sm90::attention_forward_small {
namespace {

int64_t q_tiles(const AttentionProblem& problem) { return (problem.q_len() + kRows - 1) / kRows; }

int64_t ctas(const AttentionProblem& problem) {
  return q_tiles(problem) * problem.q_heads() * problem.batch();
}

// The shape for a problem, whatever its batch; null if there is none. Its chains are chains_of's.
const Shape* find_shape(const AttentionProblem& problem, int multiprocessors) {
  static const std::vector<Shape> all = shapes();
  const int64_t widest = std::max(problem.head_dim(), problem.v_head_dim());
  const int chains = chains_of(problem, multiprocessors);
  if (chains == 1 && problem.kv_len() > 128) return nullptr;
  for (const Shape& shape : all) {
    if (widest <= shape.head_dim && problem.kv_len() <= shape.keys() && chains == shape.chains) {
      return &shape;
    }
  }
  return nullptr;
}

// CTAs that are on the GPU at the same time.
int64_t resident_ctas(const Shape& shape, int multiprocessors) {
  constexpr int kReserved = 1024;  // the system's, of each CTA's shared memory
  return int64_t{multiprocessors} *
         ((kMaxSharedBytes + kReserved) / (shape.shared_bytes() + kReserved));
}

cuda::KernelRequest request(const ConfigChoice& choice) {
  return {choice.name(), "src/cuda/sm90/attention_forward_small/kernel.cuh",
          "bsk::sm90::attention_forward_small::attention_forward_small", choice.type_name(), "90a"};
}

}  // namespace

std::vector<Shape> shapes() {
  return {
      // head_dim, v_head_dim, chains, keys of a tile, tiles
      {64, 64, 1, 128, 1},    // up to 128 keys
      {64, 64, 2, 128, 2},    // up to 256 keys
      {64, 64, 2, 128, 4},    // up to 512 keys
      {128, 128, 1, 128, 1},  // up to 128 keys
  };
}

std::string ConfigChoice::type_name() const {
  std::string text = "bsk::sm90::attention_forward_small::Config<";
  text += element_type_name(element);
  for (const int value :
       {shape.head_dim, shape.v_head_dim, shape.chains, shape.kv_tile, shape.tiles}) {
    text.append(", ").append(std::to_string(value));
  }
  return text + ">";
}

std::string ConfigChoice::name() const {
  return "sm90_attention_forward_small_d" + std::to_string(shape.head_dim) + "_" +
         element_name(element) + "_k" + std::to_string(shape.kv_tile) + "x" +
         std::to_string(shape.tiles) + "_chains" + std::to_string(shape.chains);
}

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device) {
  std::vector<std::string> found = common_reasons(problem, device);
  const auto need = [&found](bool holds, const std::string& reason) {
    if (!holds) found.push_back(reason);
  };
  need(problem.mask_kind == MaskKind::kNone, "takes no attn_mask");
  need(!problem.block_mask.present, "takes no block_mask");
  need(problem.softcap == 0.0, "takes no softcap");
  need(scale_is_a_factor(problem), "needs a scale above 0 and up to 64");
  const Shape* const shape = find_shape(problem, device.multiprocessors);
  need(shape != nullptr,
       "needs head_dim up to 128 with up to 128 keys, or head_dim up to 64 with up to 512 keys and "
       "no more tiles of 64 queries in one batch entry than the GPU has multiprocessors, " +
           std::to_string(device.multiprocessors));
  need(shape == nullptr || ctas(problem) <= resident_ctas(*shape, device.multiprocessors),
       "needs few enough queries for one wave of CTAs");
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
  plan.q_tile = kRows;
  plan.kv_tile = choice.shape.kv_tile;
  plan.tasks = ctas(problem);
  plan.threads = choice.shape.threads();
  plan.splits = choice.shape.chains;
  plan.shared_bytes = choice.shape.shared_bytes();
  return plan;
}

ConfigChoice choice_of(const AttentionProblem& problem, const AttentionPlan& plan) {
  for (const Shape& shape : shapes()) {
    const ConfigChoice choice{element_of(problem), shape};
    if (choice.name() == plan.config) return choice;
  }
  return {};
}

Params make_params(const AttentionProblem& problem, const AttentionBuffers& buffers) {
  Params params{};
  fill_common(problem, buffers, params);
  params.q_tiles = divisor_of(q_tiles(problem));
  return params;
}

TensorMapSpecs tensor_map_specs(const AttentionProblem& problem, const ConfigChoice& choice) {
  return {tensor_map_spec("q", problem.q, 64),
          tensor_map_spec("k", problem.k, choice.shape.kv_tile),
          tensor_map_spec("v", problem.v, choice.shape.kv_tile)};
}

std::unique_ptr<PreparedLaunch> prepare(const AttentionProblem& problem,
                                        const AttentionPlan& plan) {
  if (plan.tasks == 0) return nullptr;
  const ConfigChoice choice = choice_of(problem, plan);
  cuda::LaunchShape shape;
  shape.grid[0] = static_cast<uint32_t>(plan.tasks);
  shape.threads = static_cast<uint32_t>(plan.threads);
  shape.shared_bytes = plan.shared_bytes;
  shape.programmatic_dependent_launch = true;
  return prepare_launch(problem, make_params(problem, {}), tensor_map_specs(problem, choice),
                        request(choice), shape);
}

const Kernel kKernel = {"sm90_attention_forward_small",
                        "Hopper, problems of one wave: all keys of a CTA in shared memory at once",
                        reasons,
                        make_plan,
                        prepare,
                        /*only_when_forced=*/false};

std::vector<cuda::KernelRequest> documented_requests() {
  std::vector<cuda::KernelRequest> requests;
  for (const arch::Element element : {arch::Element::kFloat16, arch::Element::kBFloat16}) {
    for (const Shape& shape : shapes()) requests.push_back(request({element, shape}));
  }
  return requests;
}

}  // namespace bsk::sm90::attention_forward_small
