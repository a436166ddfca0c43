// The oracle: attention as its definition reads, in fp64, one query row at a time. Every other
// kernel is tested against this file, so it has no blocking, no threads and no tricks.
//
// A pair (query, key) is computed unless a boolean rule removes it or its additive mask entry is
// -inf. A row all of whose scores are -inf counts as a row without keys, as in torch's safe
// softmax: zeros, and an LSE of -inf.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "src/cpu/kernels.h"

namespace bsk {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The value of a binary float with `exponent_bits` and `mantissa_bits` (bf16: 8, 7; fp16: 5, 10).
double small_float_to_double(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * kInfinity;
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// The nearest binary float of that format, ties to even, overflow to infinity.
uint16_t double_to_small_float(double value, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int max_exponent = (1 << exponent_bits) - 1;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const auto infinity = static_cast<uint16_t>(max_exponent << mantissa_bits);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | infinity | (1 << (mantissa_bits - 1)));
  const double magnitude = std::fabs(value);
  if (magnitude == 0.0) return sign;
  if (std::isinf(magnitude)) return static_cast<uint16_t>(sign | infinity);
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = f * 2^exponent, 0.5 <= f < 1
  const int smallest_normal = 1 - bias;
  const int quantum = std::max(exponent - 1, smallest_normal) - mantissa_bits;
  // Counted in units of the spacing 2^quantum; nearbyint rounds to even. A carry out of the
  // mantissa raises the exponent field by itself.
  const double units = std::nearbyint(std::ldexp(magnitude, -quantum));
  const int64_t field = (quantum + mantissa_bits - smallest_normal) * (int64_t{1} << mantissa_bits);
  const int64_t bits = field + static_cast<int64_t>(units);
  return static_cast<uint16_t>(sign | (bits >= infinity ? infinity : bits));
}

double load(const void* data, DataType dtype, int64_t index) {
  switch (dtype) {
    case DataType::kFloat64: return static_cast<const double*>(data)[index];
    case DataType::kFloat32: return static_cast<const float*>(data)[index];
    case DataType::kFloat16:
      return small_float_to_double(static_cast<const uint16_t*>(data)[index], 5, 10);
    case DataType::kBFloat16:
      return small_float_to_double(static_cast<const uint16_t*>(data)[index], 8, 7);
    case DataType::kBool: return static_cast<const uint8_t*>(data)[index] != 0 ? 1.0 : 0.0;
  }
  return 0.0;
}

void store(void* data, DataType dtype, int64_t index, double value) {
  switch (dtype) {
    case DataType::kFloat64: static_cast<double*>(data)[index] = value; return;
    case DataType::kFloat32: static_cast<float*>(data)[index] = static_cast<float>(value); return;
    case DataType::kFloat16:
      static_cast<uint16_t*>(data)[index] = double_to_small_float(value, 5, 10);
      return;
    case DataType::kBFloat16:
      static_cast<uint16_t*>(data)[index] = double_to_small_float(value, 8, 7);
      return;
    case DataType::kBool: return;  // `reasons` turns away every problem with such an output
  }
}

int64_t offset(const TensorLayout& t, int64_t b, int64_t h, int64_t row, int64_t column) {
  return b * t.stride[0] + h * t.stride[1] + row * t.stride[2] + column * t.stride[3];
}

// The same, where a size of 1 is repeated along the problem's.
int64_t broadcast_offset(const TensorLayout& t, int64_t b, int64_t h, int64_t row, int64_t column) {
  return offset(t, t.shape[0] == 1 ? 0 : b, t.shape[1] == 1 ? 0 : h, t.shape[2] == 1 ? 0 : row,
                t.shape[3] == 1 ? 0 : column);
}

// Whether the diagonal rules (causal, window) let query i see key j.
bool diagonal_allows(const AttentionProblem& p, int64_t i, int64_t j) {
  const int64_t distance = j - (i + p.diagonal_offset());  // > 0 right of the diagonal
  if (p.causal != Causal::kNone && distance > 0) return false;
  if (p.window_right >= 0 && distance > p.window_right) return false;
  if (p.window_left >= 0 && -distance > p.window_left) return false;
  return true;
}

// Whether the block mask lets query i of q head h see key j. Entries outside [0, kv_blocks) are
// ignored and counts are held to [0, width]: such lists break the contract, never memory.
bool block_mask_allows(const AttentionProblem& p, const BlockMaskBuffers& lists, int64_t b,
                       int64_t h, int64_t i, int64_t j) {
  const BlockMaskLayout& m = p.block_mask;
  if (!m.present) return true;
  int64_t mask_head = 0;
  if (m.heads == p.q_heads()) {
    mask_head = h;
  } else if (m.heads == p.kv_heads()) {
    mask_head = h / (p.q_heads() / p.kv_heads());
  }
  const int64_t row = ((m.batch == 1 ? 0 : b) * m.heads + mask_head) * m.q_blocks + i / m.block_q;
  for (int64_t e = 0; e < std::min<int64_t>(lists.full_counts[row], m.full_width); ++e) {
    if (lists.full_indices[row * m.full_width + e] == j / m.block_k) return true;
  }
  if (m.partial_width == 0) return false;
  for (int64_t e = 0; e < std::min<int64_t>(lists.partial_counts[row], m.partial_width); ++e) {
    const int64_t entry = row * m.partial_width + e;
    if (lists.partial_indices[entry] != j / m.block_k) continue;
    const int64_t line = entry * m.block_q + i % m.block_q;
    const int64_t key = j % m.block_k;
    return (lists.partial_bits[line * (m.block_k / 8) + key / 8] >> (key % 8) & 1) != 0;
  }
  return false;
}

// The score of one pair; -inf where a rule removes it.
double score(const AttentionProblem& p, const AttentionBuffers& buffers, int64_t b, int64_t h,
             int64_t kv_head, int64_t i, int64_t j) {
  if (!diagonal_allows(p, i, j)) return -kInfinity;
  if (!block_mask_allows(p, buffers.block_mask, b, h, i, j)) return -kInfinity;
  double bias = 0.0;
  if (p.mask_kind != MaskKind::kNone) {
    const double entry = load(buffers.mask, p.mask.dtype, broadcast_offset(p.mask, b, h, i, j));
    if (p.mask_kind == MaskKind::kBool && entry == 0.0) return -kInfinity;
    if (p.mask_kind == MaskKind::kAdditive && entry == -kInfinity) return -kInfinity;
    if (p.mask_kind == MaskKind::kAdditive) bias = entry;
  }
  double dot = 0.0;
  for (int64_t d = 0; d < p.head_dim(); ++d) {
    dot += load(buffers.q, p.q.dtype, offset(p.q, b, h, i, d)) *
           load(buffers.k, p.k.dtype, offset(p.k, b, kv_head, j, d));
  }
  double s = p.scale * dot;
  if (p.softcap > 0.0) s = p.softcap * std::tanh(s / p.softcap);
  return s + bias;
}

void attend_row(const AttentionProblem& p, const AttentionBuffers& buffers, int64_t b, int64_t h,
                int64_t i) {
  const int64_t kv_head = h / (p.q_heads() / p.kv_heads());
  std::vector<double> scores(static_cast<size_t>(p.kv_len()));
  std::vector<double> sums(static_cast<size_t>(p.v_head_dim()), 0.0);
  double largest = -kInfinity;
  for (int64_t j = 0; j < p.kv_len(); ++j) {
    const double s = score(p, buffers, b, h, kv_head, i, j);
    scores[static_cast<size_t>(j)] = s;
    if (s > largest || std::isnan(s)) largest = s;
    if (std::isnan(largest)) break;  // the whole row is NaN, whatever the other keys hold
  }
  double total = 0.0;
  if (std::isnan(largest)) {
    total = largest;
    for (double& sum : sums) sum = largest;
  } else if (largest != -kInfinity) {
    for (int64_t j = 0; j < p.kv_len(); ++j) {
      const double s = scores[static_cast<size_t>(j)];
      if (s == -kInfinity) continue;
      const double weight = std::exp(s - largest);
      total += weight;
      for (int64_t d = 0; d < p.v_head_dim(); ++d) {
        sums[static_cast<size_t>(d)] +=
            weight * load(buffers.v, p.v.dtype, offset(p.v, b, kv_head, j, d));
      }
    }
  }
  for (int64_t d = 0; d < p.v_head_dim(); ++d) {
    const double value = largest == -kInfinity ? 0.0 : sums[static_cast<size_t>(d)] / total;
    store(buffers.out, p.out.dtype, offset(p.out, b, h, i, d), value);
  }
  if (buffers.lse != nullptr) {
    buffers.lse[(b * p.q_heads() + h) * p.q_len() + i] =
        static_cast<float>(largest == -kInfinity ? -kInfinity : largest + std::log(total));
  }
}

std::vector<std::string> reasons(const AttentionProblem& problem, const DeviceProperties& device) {
  std::vector<std::string> list;
  if (device.type != DeviceType::kCpu) list.push_back("it runs on a CPU only");
  for (const TensorLayout* t : {&problem.q, &problem.k, &problem.v, &problem.out}) {
    if (t->dtype != DataType::kBool) continue;
    list.push_back("it takes float64, float32, float16 and bfloat16");
    break;
  }
  return list;
}

AttentionPlan make_plan(const AttentionProblem& problem, const DeviceProperties&) {
  AttentionPlan plan;
  plan.kernel = &kCpuReference;
  plan.q_tile = 1;
  plan.kv_tile = 1;
  plan.tasks = problem.batch() * problem.q_heads() * problem.q_len();
  plan.threads = 1;
  return plan;
}

void launch(const AttentionProblem& p, const AttentionPlan&, const AttentionBuffers& buffers) {
  for (int64_t b = 0; b < p.batch(); ++b) {
    for (int64_t h = 0; h < p.q_heads(); ++h) {
      for (int64_t i = 0; i < p.q_len(); ++i) attend_row(p, buffers, b, h, i);
    }
  }
}

}  // namespace

const Kernel kCpuReference = {
    .name = "cpu_reference",
    .summary = "attention as its definition reads, in fp64, one row at a time: the tests' oracle",
    .reasons = reasons,
    .plan = make_plan,
    .prepare = prepare_nothing<launch>,
    .only_when_forced = true,
};

}  // namespace bsk
