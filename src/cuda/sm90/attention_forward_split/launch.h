// The host's side of the split kernel: which configuration, how many splits, what parameters. Pure
// functions but `prepare`; tests and the emulator use them as well.
#pragma once

#include <string>
#include <vector>

#include "bsk/attention.h"
#include "src/cuda/host/kernel_library.h"
#include "src/cuda/host/tensor_map.h"
#include "src/cuda/sm90/attention_forward_split/config.h"
#include "src/cuda/sm90/kernels.h"
#include "src/cuda/sm90/problem.h"

namespace bsk::sm90::attention_forward_split {

// A Config (config.h) as a value.
struct ConfigChoice {
  arch::Element element = arch::Element::kFloat16;
  Shape shape;
  bool transform = false;
  tile::MaskType mask = tile::MaskType::kNone;

  std::string type_name() const;  // the C++ type
  std::string name() const;  // of kernel, test id and bench row: "sm90_attention_forward_split_..."
  bool operator==(const ConfigChoice&) const = default;
};

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device);
ConfigChoice choose_config(const AttentionProblem& problem);
Packing pack_rows(const AttentionProblem& problem);
// The keys of a tile are split in shares, of which the CTAs of a cluster compute as many each. The
// batch changes how many CTAs, never how many shares, and so no row's bits.
AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties& device);

// Everything in Params but the tensor maps.
Params make_params(const AttentionProblem& problem, const AttentionBuffers& buffers,
                   const AttentionPlan& plan);
// Of q, k and v.
TensorMapSpecs tensor_map_specs(const AttentionProblem& problem, const ConfigChoice& choice);

std::unique_ptr<PreparedLaunch> prepare(const AttentionProblem& problem, const AttentionPlan& plan);

// The configurations embedded in the package.
std::vector<cuda::KernelRequest> documented_requests();

}  // namespace bsk::sm90::attention_forward_split
