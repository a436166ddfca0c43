// Causal masks, windows and ragged tails as one rule: query i sees the keys of one range.
#pragma once

#include "src/cuda/tile/params.h"

namespace bsk::tile {

struct KeyRange {
  int begin, end;  // empty when end <= begin
};

__device__ __forceinline__ KeyRange keys_of_row(const Visibility& visibility, int row) {
  const int begin = row + visibility.first, end = row + visibility.end;
  return {begin > 0 ? begin : 0, end < visibility.kv_len ? end : visibility.kv_len};
}

// The keys that some row of [first_row, last_row] sees, and those that every row sees.
__device__ __forceinline__ KeyRange keys_of_any_row(const Visibility& visibility, int first_row,
                                                    int last_row) {
  return {keys_of_row(visibility, first_row).begin, keys_of_row(visibility, last_row).end};
}
__device__ __forceinline__ KeyRange keys_of_every_row(const Visibility& visibility, int first_row,
                                                      int last_row) {
  return {keys_of_row(visibility, last_row).begin, keys_of_row(visibility, first_row).end};
}

}  // namespace bsk::tile
