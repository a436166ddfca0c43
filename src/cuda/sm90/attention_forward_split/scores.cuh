// What happens to the scores of a thread's two packed rows between the products.
#pragma once

#include "src/cuda/sm90/attention_forward_split/producer.cuh"
#include "src/cuda/tile/online_softmax.cuh"
#include "src/cuda/tile/packed_rows.cuh"

namespace bsk::sm90::attention_forward_split {

// Rows of the tile that are a query's and a head's.
__device__ __forceinline__ int used_rows(const Params& params, const Coordinates& at) {
  return params.packing.heads * (at.end_query - at.first_query);
}

template <class Config>
struct PackedRows {
  const Params& params;
  tile::KeyRange ranges[tile::kRowsPerThread], every;
  int64_t mask_rows[tile::kRowsPerThread];

  // Of rows `first_row` and the eighth after it. Rows that nothing uses do as the last one that is
  // used.
  __device__ __forceinline__ PackedRows(const Params& params, const Coordinates& at, int first_row)
      : params(params) {
    every = tile::keys_of_every_row(params.visibility, at.first_query, at.end_query - 1);
    const int used = used_rows(params, at);
#pragma unroll
    for (int r = 0; r < tile::kRowsPerThread; ++r) {
      const int row = first_row + 8 * r;
      const int existing = row < used ? row : used - 1;
      const int query = existing / params.packing.heads;
      ranges[r] = tile::keys_of_row(params.visibility, at.first_query + query);
      if constexpr (Config::kMask != tile::MaskType::kNone) {
        const int head = at.first_head + existing - query * params.packing.heads;
        const int last_head = static_cast<int>(params.q_heads_per_kv_head.value) - 1;
        const int q_head = at.kv_head * static_cast<int>(params.q_heads_per_kv_head.value) +
                           (head < last_head ? head : last_head);
        mask_rows[r] = at.batch * params.mask.batch_stride + q_head * params.mask.head_stride +
                       (at.first_query + query) * params.mask.row_stride;
      }
    }
  }

  // Scores against kKeys keys from `first_key` on to weights; true where O must be corrected.
  template <int kKeys>
  __device__ __forceinline__ bool weigh(float (&s)[kKeys / 2], int first_key,
                                        tile::SoftmaxRows& rows,
                                        float (&correction)[tile::kRowsPerThread]) const {
    if constexpr (Config::kTransform) tile::transform_scores(s, params.transform);
    if constexpr (Config::kMask != tile::MaskType::kNone) {
      tile::apply_mask_rows<Config::kMask, kKeys>(s, first_key, params.mask, mask_rows,
                                                  params.visibility.kv_len);
    }
    if (first_key < every.begin || first_key + kKeys > every.end) {
      tile::remove_outside<kKeys>(s, first_key, ranges);
    }
    const float scale_log2 = Config::kTransform ? 1.0f : params.scale_log2;
    const bool grown =
        tile::update_maxima<Config::kElement, kKeys / 8>(s, scale_log2, rows, correction);
    tile::exponentiate<kKeys / 8>(s, scale_log2, rows);
    return grown;
  }
};

}  // namespace bsk::sm90::attention_forward_split
