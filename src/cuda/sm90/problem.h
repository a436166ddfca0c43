// What all Hopper kernels derive from a problem in the same way.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bsk/attention.h"
#include "src/cuda/arch/types.h"
#include "src/cuda/host/tensor_map.h"
#include "src/cuda/tile/params.h"

namespace bsk::sm90 {

// Why no Hopper kernel can take the problem: device, dtypes, head_dim, lengths, strides, addresses.
std::vector<std::string> common_reasons(const AttentionProblem& problem,
                                        const DeviceProperties& device);

arch::Element element_of(const AttentionProblem& problem);
const char* element_name(arch::Element element);       // "fp16"
const char* element_type_name(arch::Element element);  // "bsk::arch::Element::kFloat16"

// Whether the scale can be a factor of the softmax's multiply-add. Beyond the largest, the rounding
// of score * scale - maximum may be large itself, and scores are scaled one by one.
bool scale_is_a_factor(const AttentionProblem& problem);

tile::Visibility visibility_of(const AttentionProblem& problem);

// The head_dim of the tiles that hold `head_dim` columns: wgmma and the tiles are instantiated for
// few widths.
int tile_columns(int64_t head_dim);
tile::MaskType mask_type(const AttentionProblem& problem);
tile::MaskTensor mask_tensor(const AttentionProblem& problem, const AttentionBuffers& buffers);

using TensorMapSpecs = std::vector<cuda::TensorMapSpec>;

// Boxes of 64 columns and `box_rows` rows. Where a tensor repeats (stride 0) the map has one entry,
// and the kernel multiplies its coordinate by `broadcast_step`.
cuda::TensorMapSpec tensor_map_spec(const char* name, const TensorLayout& tensor, int box_rows);
int broadcast_step(const TensorLayout& tensor, int dimension);

// In how many interleaved chains of 128-key tiles a dense problem of head_dim up to 64 is computed:
// 1 or 2. Chains are what the latency kernel's warpgroups share out; where more CTAs are needed
// than it has room for, the throughput kernel walks the same chains one after the other, so that
// the bits of a row do not depend on the batch, which this function does not look at.
int chains_of(const AttentionProblem& problem, int multiprocessors);

inline tile::Divisor divisor_of(int64_t value) {
  return tile::Divisor(static_cast<uint32_t>(std::max<int64_t>(value, 1)));
}

// The fields that every kernel's Params has under the same names.
template <class Params>
void fill_common(const AttentionProblem& problem, const AttentionBuffers& buffers, Params& params) {
  params.q_head_step = broadcast_step(problem.q, 1);
  params.q_batch_step = broadcast_step(problem.q, 0);
  params.k_head_step = broadcast_step(problem.k, 1);
  params.k_batch_step = broadcast_step(problem.k, 0);
  params.v_head_step = broadcast_step(problem.v, 1);
  params.v_batch_step = broadcast_step(problem.v, 0);
  params.out = buffers.out;
  params.out_batch_stride = problem.out.stride[0];
  params.out_head_stride = problem.out.stride[1];
  params.out_row_stride = problem.out.stride[2];
  params.lse = problem.return_lse ? buffers.lse : nullptr;
  params.q_heads = divisor_of(problem.q_heads());
  params.q_heads_per_kv_head =
      divisor_of(problem.q_heads() / std::max<int64_t>(problem.kv_heads(), 1));
  params.q_len = static_cast<int32_t>(problem.q_len());
  params.v_head_dim = static_cast<int32_t>(problem.v_head_dim());
  constexpr double kLog2e = 1.4426950408889634;
  params.scale_log2 = static_cast<float>(problem.scale * kLog2e);
  params.visibility = visibility_of(problem);
}

// q, k and v of a launch, and attn_mask where more specs describe it. Without keys nothing reads
// the maps but q's, but they must be maps.
template <class Params>
void encode_maps(const TensorMapSpecs& specs, const AttentionBuffers& buffers, bool has_keys,
                 Params& params) {
  params.q = cuda::encode_tensor_map(specs[0], buffers.q);
  params.k = has_keys ? cuda::encode_tensor_map(specs[1], buffers.k) : params.q;
  params.v = has_keys ? cuda::encode_tensor_map(specs[2], buffers.v) : params.q;
  if constexpr (requires { params.mask_map; }) {
    params.mask_map =
        has_keys && specs.size() > 3 ? cuda::encode_tensor_map(specs[3], buffers.mask) : params.q;
  }
}

}  // namespace bsk::sm90
