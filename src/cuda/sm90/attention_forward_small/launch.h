// The host's side of the latency kernel: which configuration, what parameters. Pure functions but
// `prepare`; tests and the emulator use them as well.
#pragma once

#include <string>
#include <vector>

#include "bsk/attention.h"
#include "src/cuda/host/kernel_library.h"
#include "src/cuda/host/tensor_map.h"
#include "src/cuda/sm90/attention_forward_small/config.h"
#include "src/cuda/sm90/kernels.h"
#include "src/cuda/sm90/problem.h"

namespace bsk::sm90::attention_forward_small {

// A Config (config.h) as a value.
struct ConfigChoice {
  arch::Element element = arch::Element::kFloat16;
  Shape shape;

  std::string type_name() const;  // the C++ type
  std::string name() const;  // of kernel, test id and bench row: "sm90_attention_forward_small_..."
  bool operator==(const ConfigChoice&) const = default;
};

// The shapes there are; a problem takes the first that holds it in as many chains as chains_of
// says.
std::vector<Shape> shapes();

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device);
ConfigChoice choose_config(const AttentionProblem& problem, int multiprocessors);
ConfigChoice choice_of(const AttentionProblem& problem, const AttentionPlan& plan);
AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties& device);

// Everything in Params but the tensor maps.
Params make_params(const AttentionProblem& problem, const AttentionBuffers& buffers);
// Of q, k and v; k and v are meaningless when kv_len = 0.
TensorMapSpecs tensor_map_specs(const AttentionProblem& problem, const ConfigChoice& choice);

std::unique_ptr<PreparedLaunch> prepare(const AttentionProblem& problem, const AttentionPlan& plan);

// The configurations embedded in the package.
std::vector<cuda::KernelRequest> documented_requests();

}  // namespace bsk::sm90::attention_forward_small
