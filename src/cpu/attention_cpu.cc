// The CPU kernel: cuts a call into tiles of up to 64 query rows and runs them on the threads, with
// the tile function of the best instruction set that this machine has.
//
// The plan's `config` names the instruction set. Tests (and whoever hunts a bug) run another one by
// changing that string in a plan before they launch it; a name that this machine lacks is an error.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "src/cpu/instruction_set.h"
#include "src/cpu/kernels.h"
#include "src/cpu/tile.h"

namespace bsk {
namespace {

using cpu::Call;
using cpu::kTileRows;
using cpu::Tile;

cpu::Element element_of(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat64: return cpu::Element::kFloat64;
    case DataType::kFloat32: return cpu::Element::kFloat32;
    case DataType::kFloat16: return cpu::Element::kFloat16;
    case DataType::kBFloat16: return cpu::Element::kBFloat16;
    case DataType::kBool: return cpu::Element::kBool;
  }
  return cpu::Element::kBool;
}

cpu::Strides strides_of(const TensorLayout& t) {
  return {t.stride[0], t.stride[1], t.stride[2], t.stride[3]};
}

// Strides of a mask, 0 wherever its size is 1.
cpu::Strides broadcast_strides_of(const TensorLayout& t) {
  return {t.shape[0] == 1 ? 0 : t.stride[0], t.shape[1] == 1 ? 0 : t.stride[1],
          t.shape[2] == 1 ? 0 : t.stride[2], t.shape[3] == 1 ? 0 : t.stride[3]};
}

cpu::BlockLists lists_of(const BlockMaskLayout& m, const BlockMaskBuffers& b) {
  return {m.present,        m.block_q,         m.block_k,       m.batch,       m.heads,
          m.q_blocks,       m.full_width,      m.partial_width, b.full_counts, b.full_indices,
          b.partial_counts, b.partial_indices, b.partial_bits};
}

Call call_of(const AttentionProblem& p, const AttentionBuffers& buffers) {
  Call call;
  call.q = static_cast<const char*>(buffers.q);
  call.k = static_cast<const char*>(buffers.k);
  call.v = static_cast<const char*>(buffers.v);
  call.mask = static_cast<const char*>(buffers.mask);
  call.out = static_cast<char*>(buffers.out);
  call.lse = buffers.lse;
  call.element = element_of(p.q.dtype);
  call.q_strides = strides_of(p.q);
  call.k_strides = strides_of(p.k);
  call.v_strides = strides_of(p.v);
  call.out_strides = strides_of(p.out);
  if (p.mask_kind != MaskKind::kNone) {
    call.mask_kind = p.mask_kind == MaskKind::kBool ? cpu::Mask::kBool : cpu::Mask::kAdditive;
    call.mask_element = element_of(p.mask.dtype);
    call.mask_strides = broadcast_strides_of(p.mask);
  }
  call.q_heads = p.q_heads();
  call.group = p.q_heads() / p.kv_heads();
  call.q_len = p.q_len();
  call.kv_len = p.kv_len();
  call.head_dim = p.head_dim();
  call.v_head_dim = p.v_head_dim();
  call.scale = static_cast<float>(p.scale);
  // A cap below fp32's normal numbers is still a cap: it must not become 0, "none".
  call.softcap = static_cast<float>(p.softcap);
  if (p.softcap > 0.0) call.softcap = std::max(call.softcap, std::numeric_limits<float>::min());
  // Held to what can matter, so that no sum of offsets overflows.
  const int64_t reach = call.q_len + call.kv_len;
  int64_t right = p.causal == Causal::kNone ? reach : 0;
  if (p.window_right >= 0) right = std::min(right, p.window_right);
  const int64_t left = p.window_left >= 0 ? std::min(reach, p.window_left) : reach;
  call.first_offset = p.diagonal_offset() - left;
  call.last_offset = p.diagonal_offset() + right;
  call.blocks = lists_of(p.block_mask, buffers.block_mask);
  return call;
}

// How the rows of one (batch, KV head) are cut: by q head and then every 64 positions, or, where
// q_len is short (decoding), every 64 rows of all heads of the group. Heads share a tile only where
// they also share the rows of the block mask.
struct Cut {
  int64_t runs = 0;          // of rows that may share a tile
  int64_t rows_per_run = 0;  // of consecutive rows
  int64_t tiles_per_run = 0;
};

Cut cut_rows(const AttentionProblem& p) {
  const int64_t group = p.q_heads() / p.kv_heads();
  const bool lists_differ =
      p.block_mask.present && p.block_mask.heads == p.q_heads() && p.block_mask.heads != 1;
  const bool pack = p.q_len() < kTileRows && !(lists_differ && group > 1);
  Cut cut;
  cut.runs = pack ? 1 : group;
  cut.rows_per_run = pack ? group * p.q_len() : p.q_len();
  cut.tiles_per_run = (cut.rows_per_run + kTileRows - 1) / kTileRows;
  return cut;
}

int64_t count_tiles(const AttentionProblem& p) {
  if (p.batch() == 0 || p.q_heads() == 0 || p.q_len() == 0) return 0;
  const Cut cut = cut_rows(p);
  return p.batch() * p.kv_heads() * cut.runs * cut.tiles_per_run;
}

// Tile number `index`: the tiles of a head are neighbours (they share its keys in the cache), the
// last positions first, which under a causal mask see the most keys.
Tile tile_at(const Cut& cut, int64_t kv_heads, int64_t index) {
  const int64_t in_run = cut.tiles_per_run - 1 - index % cut.tiles_per_run;
  index /= cut.tiles_per_run;
  const int64_t run = index % cut.runs;
  index /= cut.runs;
  Tile tile;
  tile.kv_head = index % kv_heads;
  tile.batch = index / kv_heads;
  tile.first_row = run * cut.rows_per_run + in_run * kTileRows;
  tile.rows = static_cast<int>(std::min<int64_t>(kTileRows, cut.rows_per_run - in_run * kTileRows));
  return tile;
}

std::vector<std::string> reasons(const AttentionProblem& p, const DeviceProperties& device) {
  std::vector<std::string> list;
  if (device.type != DeviceType::kCpu) list.push_back("it runs on a CPU only");
  const DataType dtype = p.q.dtype;
  if (dtype != DataType::kFloat32 && dtype != DataType::kFloat16 && dtype != DataType::kBFloat16) {
    list.push_back(std::string("it takes float32, float16 and bfloat16, not ") + to_string(dtype));
  }
  if (p.k.dtype != dtype || p.v.dtype != dtype || p.out.dtype != dtype) {
    list.push_back("it takes Q, K, V and out of one dtype only");
  }
  return list;
}

AttentionPlan make_plan(const AttentionProblem& p, const DeviceProperties& device) {
  AttentionPlan plan;
  plan.kernel = &kCpuAttentionForward;
  plan.config = cpu::instruction_sets().front().name;
  plan.q_tile = kTileRows;
  plan.kv_tile = cpu::kStepKeys;
  plan.tasks = count_tiles(p);
  plan.threads =
      static_cast<int32_t>(std::max<int64_t>(1, std::min<int64_t>(device.threads, plan.tasks)));
  return plan;
}

void launch(const AttentionProblem& p, const AttentionPlan& plan, const AttentionBuffers& buffers) {
  const cpu::TileFunction attend = cpu::tile_function(plan.config);
  if (plan.tasks == 0) return;
  const Call call = call_of(p, buffers);
  const Cut cut = cut_rows(p);
  const int64_t floats = cpu::scratch_floats(call.head_dim, call.v_head_dim);
  // All memory is taken before the threads start: nothing in the parallel region can throw. Slices
  // are whole cache lines (scratch_floats is a multiple of 64).
  constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* memory) const { ::operator delete[](memory, kLine); }
  };
  const auto bytes = sizeof(float) * static_cast<size_t>(floats * plan.threads);
  const std::unique_ptr<float[], Free> scratch(static_cast<float*>(::operator new[](bytes, kLine)));
  const int64_t kv_heads = p.kv_heads();
  if (plan.threads == 1) {  // no parallel region: a forked child may call this
    for (int64_t i = 0; i < plan.tasks; ++i) attend(call, tile_at(cut, kv_heads, i), scratch.get());
    return;
  }
  int32_t next_slice = 0;
#pragma omp parallel num_threads(plan.threads)
  {
    int32_t slice;
#pragma omp atomic capture
    slice = next_slice++;
    float* const memory = scratch.get() + slice * floats;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < plan.tasks; ++i) attend(call, tile_at(cut, kv_heads, i), memory);
  }
}

}  // namespace

const Kernel kCpuAttentionForward = {
    .name = "cpu_attention_forward",
    .summary = "blocked online softmax with queries in SIMD lanes, on all threads of a CPU",
    .reasons = reasons,
    .plan = make_plan,
    .prepare = prepare_nothing<launch>,
    .only_when_forced = false,
};

}  // namespace bsk
