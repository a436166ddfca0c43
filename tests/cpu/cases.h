// The cases that the CPU kernels are tested on.
#pragma once

#include <string>
#include <vector>

#include "tests/cpu/attention_case.h"

namespace bsk {

// Every feature once.
inline std::vector<Case> smoke_cases() {
  constexpr auto kAdditive = MaskKind::kAdditive;
  constexpr auto kBool = MaskKind::kBool;
  return {
      {.name = "dense", .q_len = 100, .kv_len = 200},
      {.name = "dense_fp16", .q_len = 100, .kv_len = 200, .dtype = DataType::kFloat16},
      {.name = "dense_bf16", .q_len = 100, .kv_len = 200, .dtype = DataType::kBFloat16},
      {.name = "scale", .q_len = 70, .kv_len = 90, .scale = 0.5},
      {.name = "causal_upper_left", .q_len = 150, .kv_len = 130, .causal = Causal::kUpperLeft},
      {.name = "causal_lower_right", .q_len = 130, .kv_len = 150, .causal = Causal::kLowerRight},
      {.name = "window", .q_len = 200, .kv_len = 200, .window_left = 30, .window_right = 7},
      {.name = "softcap", .q_len = 70, .kv_len = 130, .softcap = 2.0, .scale = 1.0},
      {.name = "bool_mask", .q_len = 100, .kv_len = 130, .mask = {.kind = kBool}},
      {.name = "additive_mask", .q_len = 100, .kv_len = 130, .mask = {.kind = kAdditive}},
      {.name = "padding_mask",
       .batch = 3,
       .q_len = 70,
       .kv_len = 150,
       .mask = {.kind = kBool, .full = {true, false, false, true}}},
      {.name = "blocks", .q_len = 300, .kv_len = 300, .blocks = {64, 64}},
      {.name = "partial_blocks",
       .q_len = 300,
       .kv_len = 300,
       .blocks = {.block_q = 64, .block_k = 64, .partial_density = 0.4}},
      {.name = "gqa", .q_heads = 8, .kv_heads = 2, .q_len = 70, .kv_len = 100},
      {.name = "gqa_decode", .batch = 2, .q_heads = 8, .kv_heads = 2, .q_len = 1, .kv_len = 200},
      {.name = "v_head_dim", .q_len = 70, .kv_len = 70, .head_dim = 96, .v_head_dim = 40},
      {.name = "bshd", .batch = 2, .q_len = 70, .kv_len = 70, .placement = Placement::kBshd},
  };
}

// Sizes, strides and masks at their ends, and masks together.
inline std::vector<Case> edge_cases() {
  constexpr auto kAdditive = MaskKind::kAdditive;
  constexpr auto kBool = MaskKind::kBool;
  std::vector<Case> list;
  for (int64_t d : {16, 24, 64, 80, 96, 128, 192, 256}) {
    for (DataType dtype : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
      list.push_back({.name = "head_dim_" + std::to_string(d) + "_" + to_string(dtype),
                      .q_len = 65,
                      .kv_len = 67,
                      .head_dim = d,
                      .dtype = dtype,
                      .causal = Causal::kLowerRight,
                      .placement = d % 3 == 0 ? Placement::kTight : Placement::kPaddedRow});
    }
  }
  for (int64_t group : {1, 2, 4, 8}) {
    for (int64_t q_len : {1, 3, 63, 64, 70}) {
      for (Causal causal : {Causal::kNone, Causal::kUpperLeft, Causal::kLowerRight}) {
        list.push_back({.name = "group_" + std::to_string(group) + "_q" + std::to_string(q_len) +
                                "_causal" + std::to_string(static_cast<int>(causal)),
                        .batch = 2,
                        .q_heads = 2 * group,
                        .kv_heads = 2,
                        .q_len = q_len,
                        .kv_len = 97,
                        .head_dim = 16,
                        .causal = causal,
                        .placement = Placement::kBshd});
      }
    }
  }
  int serial = 0;
  for (int32_t block_q : {64, 128}) {
    for (int32_t block_k : {16, 32, 64, 128}) {
      for (int64_t heads : {1, 2, 4}) {
        ++serial;
        list.push_back({.name = "blocks_" + std::to_string(block_q) + "x" +
                                std::to_string(block_k) + "_heads" + std::to_string(heads),
                        .batch = 2,
                        .q_heads = 4,
                        .kv_heads = 2,
                        .q_len = serial % 4 == 0 ? 40 : 201,
                        .kv_len = 331,
                        .head_dim = 16,
                        .dtype = serial % 3 == 0 ? DataType::kBFloat16 : DataType::kFloat32,
                        .causal = serial % 2 == 0 ? Causal::kLowerRight : Causal::kNone,
                        .blocks = {.block_q = block_q,
                                   .block_k = block_k,
                                   .heads = heads,
                                   .per_batch = serial % 2 == 1,
                                   .full_density = 0.2,
                                   .partial_density = 0.3,
                                   .empty_rows = serial % 3 == 1,
                                   .invalid_entries = serial % 5 < 2},
                        .placement = Placement::kTight});
      }
    }
  }
  for (int bits = 0; bits < 16; ++bits) {  // which mask dimensions are broadcast
    const std::array<bool, 4> full = {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0,
                                      (bits & 8) != 0};
    for (MaskKind kind : {kBool, kAdditive}) {
      const DataType types[] = {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16,
                                DataType::kFloat64};
      list.push_back({.name = std::string(kind == kBool ? "bool" : "additive") + "_broadcast_" +
                              std::to_string(bits),
                      .batch = 2,
                      .q_heads = 4,
                      .kv_heads = 2,
                      .q_len = bits % 3 == 0 ? 5 : 70,
                      .kv_len = 131,
                      .head_dim = 16,
                      .mask = {kind, types[bits % 4], full, 0.3, bits % 5 == 0}});
    }
  }
  for (MaskKind kind : {kBool, kAdditive}) {
    const std::string name = kind == kBool ? "_bool" : "_additive";
    list.push_back({.name = "everything" + name,
                    .batch = 2,
                    .q_heads = 4,
                    .kv_heads = 2,
                    .q_len = 210,
                    .kv_len = 290,
                    .head_dim = 24,
                    .v_head_dim = 16,
                    .causal = Causal::kLowerRight,
                    .window_left = 100,
                    .softcap = 3.0,
                    .mask = {.kind = kind, .removed = 0.2},
                    .blocks = {.block_q = 64, .block_k = 32, .heads = 2, .partial_density = 0.4},
                    .placement = Placement::kBshd});
    list.push_back({.name = "nothing_left" + name,
                    .q_len = 70,
                    .kv_len = 130,
                    .mask = {.kind = kind, .removed = 1.0}});
    list.push_back({.name = "almost_nothing_left" + name,
                    .q_len = 70,
                    .kv_len = 130,
                    .mask = {.kind = kind, .removed = 0.99}});
  }
  list.push_back({.name = "rows_before_the_first_key",
                  .q_len = 200,
                  .kv_len = 70,
                  .causal = Causal::kLowerRight});
  list.push_back(
      {.name = "window_of_one", .q_len = 90, .kv_len = 90, .window_left = 0, .window_right = 0});
  list.push_back({.name = "window_upper_left",
                  .q_len = 150,
                  .kv_len = 100,
                  .causal = Causal::kUpperLeft,
                  .window_left = 20});
  list.push_back({.name = "window_beyond_all",
                  .q_len = 40,
                  .kv_len = 40,
                  .window_left = INT64_MAX,
                  .window_right = INT64_MAX});
  list.push_back({.name = "large_scores", .q_len = 64, .kv_len = 300, .scale = 4.0});
  list.push_back({.name = "long", .q_heads = 1, .kv_heads = 1, .q_len = 3, .kv_len = 8209});
  return list;
}

}  // namespace bsk
