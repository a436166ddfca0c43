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
  const Coordinates& at;
  int first_row;         // of a thread's two; the other is the eighth after it
  tile::KeyRange every;  // keys that all rows see

  __device__ __forceinline__ PackedRows(const Params& params, const Coordinates& at, int first_row)
      : params(params),
        at(at),
        first_row(first_row),
        every(tile::keys_of_every_row(params.visibility, at.first_query, at.end_query - 1)) {}

  // Rows that nothing uses do as the last one that is used.
  __device__ __forceinline__ int existing_row(int r) const {
    const int row = first_row + 8 * r, used = used_rows(params, at);
    return row < used ? row : used - 1;
  }

  // Where attn_mask's row begins.
  __device__ __forceinline__ int64_t mask_row(int r) const {
    const int group = static_cast<int>(params.q_heads_per_kv_head.value);
    const int row = existing_row(r), query = params.by_heads.divide(row);
    const int head = at.first_head + row - query * params.packing.heads;
    const int q_head = at.kv_head * group + (head < group ? head : group - 1);
    return at.batch * params.mask.batch_stride + q_head * params.mask.head_stride +
           (at.first_query + query) * params.mask.row_stride;
  }

  // Of kKeys keys from `first_key` on, those that not all rows see are removed.
  template <int kKeys>
  __device__ __forceinline__ void remove_unseen(float (&s)[kKeys / 2], int first_key) const {
    if (first_key >= every.begin && first_key + kKeys <= every.end) return;
    tile::KeyRange ranges[tile::kRowsPerThread];
#pragma unroll
    for (int r = 0; r < tile::kRowsPerThread; ++r) {
      const int query = params.by_heads.divide(existing_row(r));
      ranges[r] = tile::keys_of_row(params.visibility, at.first_query + query);
    }
    tile::remove_outside<kKeys>(s, first_key, ranges);
  }

  // Scores against kKeys keys from `first_key` on to weights; true where O must be corrected.
  template <int kKeys>
  __device__ __forceinline__ bool weigh(float (&s)[kKeys / 2], int first_key,
                                        tile::SoftmaxRows& rows,
                                        float (&correction)[tile::kRowsPerThread]) const {
    if constexpr (Config::kTransform) tile::transform_scores(s, params.transform);
    if constexpr (Config::kMask != tile::MaskType::kNone) {
      const int64_t mask_rows[] = {mask_row(0), mask_row(1)};
      tile::apply_mask_rows<Config::kMask, kKeys>(s, first_key, params.mask, mask_rows,
                                                  params.visibility.kv_len);
    }
    remove_unseen<kKeys>(s, first_key);
    const float scale_log2 = Config::kTransform ? 1.0f : params.scale_log2;
    const bool grown =
        tile::update_maxima<Config::kElement, kKeys / 8>(s, scale_log2, rows, correction);
    tile::exponentiate<kKeys / 8>(s, scale_log2, rows);
    return grown;
  }
};

}  // namespace bsk::sm90::attention_forward_split
