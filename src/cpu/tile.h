// What one task of the blocked CPU kernel is: plain data, so that the files compiled per
// instruction set include this header and nothing of the C++ library (an inline function of a
// standard header, compiled there with AVX-512 and merged by the linker, would end up in code that
// runs on every machine).
//
// A tile is up to 64 query rows that share a batch and a KV head: 64 SIMD lanes. A step is up to 64
// keys, [64 n, 64 n + 64), the same boundaries for every tile: a row's result depends on its own
// data alone, never on the tile it sits in.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bsk::cpu {

inline constexpr int kTileRows = 64;
inline constexpr int kStepKeys = 64;

enum class Element : uint8_t { kFloat64, kFloat32, kFloat16, kBFloat16, kBool };
enum class Mask : uint8_t { kNone, kBool, kAdditive };

struct Strides {  // in elements; 0 where a dimension is broadcast
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;
  int64_t column = 0;
};

struct BlockLists {  // as in bsk/block_mask.h; rows counted [batch, heads, q_blocks]
  bool present = false;
  int block_q = 0;
  int block_k = 0;
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t q_blocks = 0;
  int64_t full_width = 0;
  int64_t partial_width = 0;
  const int32_t* full_counts = nullptr;
  const int32_t* full_indices = nullptr;
  const int32_t* partial_counts = nullptr;
  const int32_t* partial_indices = nullptr;
  const uint8_t* partial_bits = nullptr;
};

struct Call {  // one attention call: what all tiles share
  const char* q = nullptr;
  const char* k = nullptr;
  const char* v = nullptr;
  const char* mask = nullptr;
  char* out = nullptr;
  float* lse = nullptr;  // [batch, q_heads, q_len] or null
  Element element = Element::kFloat32;
  Element mask_element = Element::kBool;
  Mask mask_kind = Mask::kNone;
  Strides q_strides, k_strides, v_strides, out_strides, mask_strides;
  int64_t q_heads = 0;
  int64_t group = 0;  // q heads per KV head
  int64_t q_len = 0;
  int64_t kv_len = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;
  float scale = 0.0f;
  float softcap = 0.0f;  // 0 = none
  // Query i sees keys j with i + first_offset <= j <= i + last_offset (causal and window).
  int64_t first_offset = 0;
  int64_t last_offset = 0;
  BlockLists blocks;
};

// Rows of one (batch, KV head) are numbered head by head: row = head_in_group * q_len + position.
struct Tile {
  int64_t batch = 0;
  int64_t kv_head = 0;
  int64_t first_row = 0;
  int rows = 0;  // 1 to kTileRows; all in the same block-mask row
};

// Floats of scratch that one thread needs, 64-byte aligned.
inline constexpr int64_t scratch_floats(int64_t head_dim, int64_t v_head_dim) {
  // Q^T, K; O^T, V; scores, additive mask; up to 16 rows of Q.
  return 2 * kTileRows * (head_dim + v_head_dim) + 2 * kTileRows * kStepKeys + 16 * head_dim;
}

using TileFunction = void (*)(const Call& call, const Tile& tile, float* scratch);

// One per instruction set; the same source (tile/attend_tile.cc) compiled for each.
void attend_tile_baseline(const Call& call, const Tile& tile, float* scratch);
void attend_tile_avx2(const Call& call, const Tile& tile, float* scratch);
void attend_tile_avx512(const Call& call, const Tile& tile, float* scratch);

}  // namespace bsk::cpu
