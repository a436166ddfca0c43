// A Hopper attention kernel made ready for one problem: a call sets addresses and launches.
#pragma once

#include <memory>

#include "src/attention/kernel.h"
#include "src/cuda/host/driver.h"
#include "src/cuda/host/launch.h"
#include "src/cuda/sm90/problem.h"

namespace bsk::sm90 {

// The addresses in Params, which have the same names in every kernel's.
template <class Params>
void set_addresses(const AttentionProblem& problem, const AttentionBuffers& buffers,
                   Params& params) {
  params.out = buffers.out;
  params.lse = problem.return_lse ? buffers.lse : nullptr;
  if constexpr (requires { params.mask; }) {
    params.mask.data = problem.mask_kind != MaskKind::kNone ? buffers.mask : nullptr;
  }
  if constexpr (requires { params.lists; }) {
    if (!problem.block_mask.present) return;
    params.lists.full_counts = buffers.block_mask.full_counts;
    params.lists.full_indices = buffers.block_mask.full_indices;
    if (problem.block_mask.partial_width == 0) return;
    params.lists.partial_counts = buffers.block_mask.partial_counts;
    params.lists.partial_indices = buffers.block_mask.partial_indices;
    params.lists.partial_bits = buffers.block_mask.partial_bits;
  }
}

template <class Params>
class PreparedKernel final : public PreparedLaunch {
 public:
  PreparedKernel(const AttentionProblem& problem, const Params& params, const TensorMapSpecs& specs,
                 cuda::DeviceKernel& kernel, const cuda::LaunchShape& shape)
      : problem_(problem),
        params_(params),
        specs_(specs),
        device_(cuda::cuda_device(problem.q.device_index)),
        kernel_(kernel),
        shape_(shape) {}

  void launch(const AttentionBuffers& buffers) override {
    // A thread that has used no CUDA yet has no context, which tensor maps need as launches do.
    const cuda::ScopedDevice scoped(device_);
    set_addresses(problem_, buffers, params_);
    set_maps(buffers);
    cuda::launch(kernel_, device_.index, buffers.stream, shape_, params_);
  }

 private:
  // Encoding checks the specs and takes the driver some time: done for the first call's addresses.
  void set_maps(const AttentionBuffers& buffers) {
    const bool has_keys = problem_.kv_len() > 0;
    if (!encoded_) {
      encode_maps(specs_, buffers, has_keys, params_);
      encoded_ = true;
      return;
    }
    cuda::replace_address(params_.q, specs_[0].name, buffers.q);
    if (!has_keys) return;  // nothing reads the maps of k and v
    cuda::replace_address(params_.k, specs_[1].name, buffers.k);
    cuda::replace_address(params_.v, specs_[2].name, buffers.v);
    if constexpr (requires { params_.mask_map; }) {
      if (specs_.size() > 3) {
        cuda::replace_address(params_.mask_map, specs_[3].name, buffers.mask);
      }
    }
  }

  const AttentionProblem problem_;
  Params params_;
  const TensorMapSpecs specs_;
  const cuda::CudaDevice& device_;  // as the kernel, lives as long as the process
  cuda::DeviceKernel& kernel_;
  const cuda::LaunchShape shape_;
  bool encoded_ = false;
};

// `params`: everything but addresses.
template <class Params>
std::unique_ptr<PreparedLaunch> prepare_launch(const AttentionProblem& problem,
                                               const Params& params, const TensorMapSpecs& specs,
                                               const cuda::KernelRequest& request,
                                               const cuda::LaunchShape& shape) {
  return std::make_unique<PreparedKernel<Params>>(problem, params, specs,
                                                  cuda::device_kernel(request), shape);
}

}  // namespace bsk::sm90
