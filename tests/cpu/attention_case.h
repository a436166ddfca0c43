// A test case as a value, its inputs, and the tests' own evaluation of it: one loop over pairs, in
// fp64 to check the oracle and in fp32 as the measure of what error is fair.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "bsk/attention.h"
#include "src/cpu/kernels.h"
#include "tests/cpu/block_pattern.h"
#include "tests/cpu/halo_tensor.h"

namespace bsk {

struct MaskCase {
  MaskKind kind = MaskKind::kNone;
  DataType dtype = DataType::kFloat32;                  // of an additive mask
  std::array<bool, 4> full = {true, true, true, true};  // else the size is 1
  double removed = 0.3;                                 // share of entries that are false or -inf
  bool key_stride = false;                              // columns that are not neighbours in memory
};

struct BlockCase {
  int32_t block_q = 0, block_k = 0;  // 0 = no block mask
  int64_t heads = 1;
  bool per_batch = false;
  double full_density = 0.4, partial_density = 0.0;
  bool empty_rows = false, invalid_entries = false;
};

struct Case {
  std::string name;
  int64_t batch = 1, q_heads = 2, kv_heads = 2, q_len = 64, kv_len = 64, head_dim = 64;
  int64_t v_head_dim = 0;  // 0 = head_dim
  DataType dtype = DataType::kFloat32;
  Causal causal = Causal::kNone;
  int64_t window_left = -1, window_right = -1;
  double softcap = 0.0;
  double scale = 0.0;  // 0 = 1 / sqrt(head_dim)
  MaskCase mask = {};
  BlockCase blocks = {};
  Placement placement = Placement::kHalo;
};

// `prefix` and a number. (GCC 12 at -O3 warns of an overlap in `"q" + std::to_string(n)`.)
inline std::string numbered(std::string prefix, int64_t number) {
  prefix.append(std::to_string(number));
  return prefix;
}

inline std::ostream& operator<<(std::ostream& stream, const Case& c) { return stream << c.name; }

struct Output {
  HaloTensor out;
  std::vector<float> lse;
};

class CaseData {
 public:
  explicit CaseData(const Case& c) : c_(c), random_(20251123) {
    const int64_t v_dim = c.v_head_dim != 0 ? c.v_head_dim : c.head_dim;
    q = tensor({c.batch, c.q_heads, c.q_len, c.head_dim});
    k = tensor({c.batch, c.kv_heads, c.kv_len, c.head_dim});
    v = tensor({c.batch, c.kv_heads, c.kv_len, v_dim});
    make_mask();
    if (c.blocks.block_q != 0) {
      pattern =
          make_pattern({c.blocks.block_q, c.blocks.block_k, c.blocks.per_batch ? c.batch : 1,
                        c.blocks.heads, c.q_len, c.kv_len, c.blocks.full_density,
                        c.blocks.partial_density, c.blocks.empty_rows, c.blocks.invalid_entries},
                       random_);
    }
    problem.q = q.layout();
    problem.k = k.layout();
    problem.v = v.layout();
    problem.out = HaloTensor(c.dtype, {c.batch, c.q_heads, c.q_len, v_dim}, c.placement).layout();
    problem.scale = c.scale != 0.0 ? c.scale : 1.0 / std::sqrt(static_cast<double>(c.head_dim));
    problem.softcap = c.softcap;
    problem.causal = c.causal;
    problem.window_left = c.window_left;
    problem.window_right = c.window_right;
    problem.mask_kind = c.mask.kind;
    problem.mask = mask.layout();
    problem.block_mask = pattern.layout;
    problem.return_lse = true;
  }

  AttentionBuffers buffers(Output* output) {
    AttentionBuffers b;
    b.q = q.data();
    b.k = k.data();
    b.v = v.data();
    b.mask = mask.data();
    b.out = output->out.data();
    b.lse = output->lse.data();
    b.block_mask = pattern.buffers();
    return b;
  }

  Output empty_output() const {
    const auto rows = static_cast<size_t>(c_.batch * c_.q_heads * c_.q_len);
    return {HaloTensor(problem.out.dtype, problem.out.shape, c_.placement),
            std::vector<float>(rows, -12345.0f)};
  }

  Output run(const Kernel& kernel, int32_t threads = 1, const std::string& config = "") {
    Output output = empty_output();
    DeviceProperties device;
    device.threads = threads;
    AttentionPlan plan = kernel.plan(problem, device);
    if (!config.empty()) plan.config = config;
    kernel.prepare(problem, plan)->launch(buffers(&output));
    return output;
  }

  // The oracle's fp64 result: the same numbers as the case's inputs, in fp64 tensors.
  Output reference() {
    CaseData wide = *this;
    const auto widen = [](HaloTensor& t) {
      const auto [batch, heads, rows, columns] = t.layout().shape;
      HaloTensor w(DataType::kFloat64, t.layout().shape, Placement::kHalo);
      for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c) w.set(b, h, r, c, t.get(b, h, r, c));
      t = w;
      return w.layout();
    };
    wide.problem.q = widen(wide.q);
    wide.problem.k = widen(wide.k);
    wide.problem.v = widen(wide.v);
    wide.c_.placement = Placement::kHalo;
    wide.problem.out = HaloTensor(DataType::kFloat64, problem.out.shape, Placement::kHalo).layout();
    return wide.run(kCpuReference);
  }

  bool allows(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const int64_t shift = c_.causal == Causal::kUpperLeft ? 0 : c_.kv_len - c_.q_len;
    if (c_.causal != Causal::kNone && j > i + shift) return false;
    if (c_.window_left >= 0 && i + shift - j > c_.window_left) return false;
    if (c_.window_right >= 0 && j - i - shift > c_.window_right) return false;
    if (c_.mask.kind == MaskKind::kBool && mask_entry(b, h, i, j) == 0.0) return false;
    if (c_.blocks.block_q == 0) return true;
    const int64_t group = c_.q_heads / c_.kv_heads;
    const int64_t mask_head = pattern.layout.heads == 1            ? 0
                              : pattern.layout.heads == c_.q_heads ? h
                                                                   : h / group;
    return pattern.allows(b, mask_head, i, j);
  }

  // Row i as its definition reads, in T; `out` gets the row rounded to the output's dtype by the
  // caller. Returns the LSE.
  template <typename T>
  double plain_row(int64_t b, int64_t h, int64_t i, std::vector<T>* out) const {
    const int64_t kv_head = h / (c_.q_heads / c_.kv_heads);
    std::vector<T> scores;
    T largest = -std::numeric_limits<T>::infinity();
    for (int64_t j = 0; j < c_.kv_len; ++j) {
      T s = 0;
      for (int64_t d = 0; d < c_.head_dim; ++d) {
        s += static_cast<T>(q.get(b, h, i, d)) * static_cast<T>(k.get(b, kv_head, j, d));
      }
      s *= static_cast<T>(problem.scale);
      if (c_.softcap > 0)
        s = static_cast<T>(c_.softcap) * std::tanh(s / static_cast<T>(c_.softcap));
      if (c_.mask.kind == MaskKind::kAdditive) s += static_cast<T>(mask_entry(b, h, i, j));
      if (!allows(b, h, i, j)) s = -std::numeric_limits<T>::infinity();
      scores.push_back(s);
      largest = std::max(largest, s);
    }
    const auto columns = static_cast<size_t>(problem.v_head_dim());
    out->assign(columns, 0);
    if (largest == -std::numeric_limits<T>::infinity()) return largest;
    T total = 0;
    for (int64_t j = 0; j < c_.kv_len; ++j) {
      const T weight = std::exp(scores[static_cast<size_t>(j)] - largest);
      total += weight;
      if (weight == 0) continue;
      for (size_t d = 0; d < columns; ++d) {
        (*out)[d] += weight * static_cast<T>(v.get(b, kv_head, j, static_cast<int64_t>(d)));
      }
    }
    for (T& x : *out) x /= total;
    return largest + std::log(total);
  }

  const Case& description() const { return c_; }

  AttentionProblem problem;
  HaloTensor q, k, v, mask;
  BlockPattern pattern;

 private:
  HaloTensor tensor(std::array<int64_t, 4> shape) {
    HaloTensor t(c_.dtype, shape, c_.placement);
    std::normal_distribution<double> normal;
    for (int64_t b = 0; b < shape[0]; ++b)
      for (int64_t h = 0; h < shape[1]; ++h)
        for (int64_t r = 0; r < shape[2]; ++r)
          for (int64_t c = 0; c < shape[3]; ++c) t.set(b, h, r, c, normal(random_));
    return t;
  }

  void make_mask() {
    if (c_.mask.kind == MaskKind::kNone) return;
    const std::array<int64_t, 4> sizes = {c_.batch, c_.q_heads, c_.q_len, c_.kv_len};
    std::array<int64_t, 4> shape{};
    for (size_t i = 0; i < 4; ++i) shape[i] = c_.mask.full[i] ? sizes[i] : 1;
    const bool is_bool = c_.mask.kind == MaskKind::kBool;
    // A mask with a key stride is the [.., rows, columns] view of a [.., columns, rows] tensor.
    auto stored = shape;
    if (c_.mask.key_stride) std::swap(stored[1], stored[3]);
    mask = HaloTensor(is_bool ? DataType::kBool : c_.mask.dtype, stored, c_.placement);
    if (c_.mask.key_stride) mask.swap_dimensions(1, 3);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    for (int64_t b = 0; b < shape[0]; ++b)
      for (int64_t h = 0; h < shape[1]; ++h)
        for (int64_t i = 0; i < shape[2]; ++i)
          for (int64_t j = 0; j < shape[3]; ++j) {
            const bool removed = uniform(random_) < c_.mask.removed;
            const double bias = uniform(random_) * 4.0 - 2.0;
            const double infinity = std::numeric_limits<double>::infinity();
            mask.set(b, h, i, j, is_bool ? !removed : (removed ? -infinity : bias));
          }
  }

  double mask_entry(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const auto& shape = mask.layout().shape;
    return mask.get(shape[0] == 1 ? 0 : b, shape[1] == 1 ? 0 : h, shape[2] == 1 ? 0 : i,
                    shape[3] == 1 ? 0 : j);
  }

  Case c_;
  std::mt19937 random_;
};

}  // namespace bsk
