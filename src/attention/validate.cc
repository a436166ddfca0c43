// The rules that hold for every kernel. Each broken rule names the argument, the rule, the value
// got and the remedy.
#include "src/attention/validate.h"

#include <cmath>
#include <limits>
#include <string>
#include <string_view>

namespace bsk {
namespace {

constexpr int64_t kMinHeadDim = 16;
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kHeadDimStep = 8;

std::string text(const std::array<int64_t, 4>& values) {
  std::string result = "[";
  for (int i = 0; i < 4; ++i) result += (i > 0 ? ", " : "") + std::to_string(values[i]);
  return result + "]";
}

bool is_empty(const TensorLayout& layout) {
  for (int64_t size : layout.shape) {
    if (size == 0) return true;
  }
  return false;
}

// A converted `out` is a copy, and nobody looks for the result there.
std::string remedy(std::string_view name, const std::string& text) {
  return name == "out" ? "Leave `out` away, and a tensor that fits is made." : text;
}

void check_same_device(const char* name, const TensorLayout& layout, const TensorLayout& q) {
  if (layout.device == q.device && layout.device_index == q.device_index) return;
  fail(ErrorKind::kValue, name, "must be on Q's device, " + to_string(q.device, q.device_index),
       to_string(layout.device, layout.device_index),
       remedy(name, std::string("Move it there with ") + name + ".to(Q.device)."));
}

void check_same_dtype(const char* name, const TensorLayout& layout, const TensorLayout& q) {
  if (layout.dtype == q.dtype) return;
  fail(ErrorKind::kType, name, std::string("must have Q's dtype, ") + to_string(q.dtype),
       to_string(layout.dtype),
       remedy(name, std::string("Convert it with ") + name + ".to(Q.dtype)."));
}

void check_unit_stride(const char* name, const TensorLayout& layout) {
  if (is_empty(layout) || layout.shape[3] <= 1 || layout.stride[3] == 1) return;
  fail(ErrorKind::kValue, name,
       "must have stride 1 in its last dimension (any strides in the others)",
       "strides " + text(layout.stride),
       remedy(name, std::string("Make it so with ") + name + ".contiguous()."));
}

void check_head_dim(const char* name, int64_t head_dim) {
  if (head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kHeadDimStep == 0) return;
  fail(ErrorKind::kValue, name, "must have a head_dim (last size) from 16 to 256 in steps of 8",
       std::to_string(head_dim),
       "Pad the last dimension with zeros to the next multiple of 8 (and pass `scale` for the true "
       "head_dim), or use "
       "torch's SDPA.");
}

void check_shape(const char* name, const TensorLayout& layout,
                 const std::array<int64_t, 4>& expected, const char* meaning) {
  if (layout.shape == expected) return;
  fail(ErrorKind::kValue, name, std::string("must have shape ") + meaning + " = " + text(expected),
       text(layout.shape),
       remedy(name,
              std::string("Reshape or slice ") + name + " so that its sizes agree with Q and K."));
}

// float64 is for the oracle alone: `cpu_reference` computes in it, and has to be asked for by name.
void check_dtype(const TensorLayout& q) {
  if (q.device == DeviceType::kCuda) {
    if (q.dtype == DataType::kFloat16 || q.dtype == DataType::kBFloat16) return;
    fail(ErrorKind::kType, "Q", "must be float16 or bfloat16 on a GPU", to_string(q.dtype),
         "Convert Q, K and V with .half() or .bfloat16(); nothing is down-cast silently.");
  }
  if (q.dtype != DataType::kBool) return;
  fail(ErrorKind::kType, "Q", "must be float32, float16 or bfloat16", to_string(q.dtype),
       "Convert it with Q.float().");
}

void check_tensors(const AttentionProblem& p) {
  check_same_device("K", p.k, p.q);
  check_same_device("V", p.v, p.q);
  check_same_dtype("K", p.k, p.q);
  check_same_dtype("V", p.v, p.q);
  check_dtype(p.q);
  check_head_dim("Q", p.head_dim());
  if (p.k.shape[0] != p.batch()) {
    fail(ErrorKind::kValue, "K", "must have Q's batch size, " + std::to_string(p.batch()),
         std::to_string(p.k.shape[0]),
         "Expand K to it; an expanded view with stride 0 is taken without a copy.");
  }
  if (p.k.shape[3] != p.head_dim()) {
    fail(ErrorKind::kValue, "K",
         "must have Q's head_dim (last size), " + std::to_string(p.head_dim()),
         std::to_string(p.k.shape[3]), "Pass K as [batch, kv_heads, kv_len, head_dim].");
  }
  if (p.kv_heads() == 0 ? p.q_heads() != 0 : p.q_heads() % p.kv_heads() != 0) {
    fail(ErrorKind::kValue, "K",
         "must have a number of heads that divides Q's " + std::to_string(p.q_heads()),
         std::to_string(p.kv_heads()),
         "Tensors are [batch, heads, length, head_dim]; check that heads come second.");
  }
  check_shape("V", p.v, {p.batch(), p.kv_heads(), p.kv_len(), p.v_head_dim()},
              "[batch, kv_heads, kv_len, v_head_dim] as K's");
  check_head_dim("V", p.v_head_dim());
  check_unit_stride("Q", p.q);
  check_unit_stride("K", p.k);
  check_unit_stride("V", p.v);
}

void check_numbers(const AttentionProblem& p) {
  if (!std::isfinite(p.scale)) {
    fail(ErrorKind::kValue, "scale", "must be a finite number", std::to_string(p.scale),
         "Pass None for 1 / sqrt(head_dim).");
  }
  // Kernels hold the scale in fp32, folded with log2(e).
  if (std::abs(p.scale) > std::numeric_limits<float>::max() / 2) {
    fail(ErrorKind::kValue, "scale", "must fit in float32", std::to_string(p.scale),
         "Scale Q itself.");
  }
  if (!std::isfinite(p.softcap) || p.softcap < 0 ||
      p.softcap > std::numeric_limits<float>::max() / 2) {
    fail(ErrorKind::kValue, "softcap", "must be a positive finite number (or None)",
         std::to_string(p.softcap), "Pass None for no cap.");
  }
  if (p.window_left < -1 || p.window_right < -1) {
    fail(ErrorKind::kValue, "window",
         "must be (left, right) with both >= -1, where -1 means unbounded",
         "(" + std::to_string(p.window_left) + ", " + std::to_string(p.window_right) + ")",
         "Pass None for no window.");
  }
}

void check_mask(const AttentionProblem& p) {
  if (p.mask_kind == MaskKind::kNone) return;
  check_same_device("attn_mask", p.mask, p.q);
  const std::array<int64_t, 4> full = {p.batch(), p.q_heads(), p.q_len(), p.kv_len()};
  for (int i = 0; i < 4; ++i) {
    if (p.mask.shape[i] == full[i] || p.mask.shape[i] == 1) continue;
    fail(ErrorKind::kValue, "attn_mask",
         "must be broadcastable to [batch, q_heads, q_len, kv_len] = " + text(full),
         text(p.mask.shape),
         "Give each dimension the full size or 1; a padding mask is [batch, 1, 1, kv_len].");
  }
  if (p.mask_kind == MaskKind::kAdditive && p.mask.dtype == DataType::kBool) {
    fail(ErrorKind::kType, "attn_mask", "must be floating point to be added", "bool",
         "Pass it as a bool mask.");
  }
  if (p.mask.dtype == DataType::kFloat64 && p.q.dtype != DataType::kFloat64) {
    fail(ErrorKind::kType, "attn_mask", "must be bool, float32, float16 or bfloat16", "float64",
         "Convert it with attn_mask.float().");
  }
}

void check_block_mask(const AttentionProblem& p) {
  const BlockMaskLayout& m = p.block_mask;
  if (!m.present) return;
  if (m.block_q != 64 && m.block_q != 128) {
    fail(ErrorKind::kValue, "block_mask", "must have query blocks of 64 or 128",
         std::to_string(m.block_q), "Build it with block_size=(64 or 128, 16, 32, 64 or 128).");
  }
  if (m.block_k != 16 && m.block_k != 32 && m.block_k != 64 && m.block_k != 128) {
    fail(ErrorKind::kValue, "block_mask", "must have key blocks of 16, 32, 64 or 128",
         std::to_string(m.block_k), "Build it with block_size=(64 or 128, 16, 32, 64 or 128).");
  }
  if (m.batch != 1 && m.batch != p.batch()) {
    fail(ErrorKind::kValue, "block_mask",
         "must have a batch size of 1 or Q's, " + std::to_string(p.batch()),
         std::to_string(m.batch), "Build it for this batch.");
  }
  if (m.heads != 1 && m.heads != p.kv_heads() && m.heads != p.q_heads()) {
    fail(ErrorKind::kValue, "block_mask",
         "must have 1, kv_heads = " + std::to_string(p.kv_heads()) +
             " or q_heads = " + std::to_string(p.q_heads()) + " heads",
         std::to_string(m.heads), "Build it for these heads.");
  }
  const int64_t q_blocks = (p.q_len() + m.block_q - 1) / m.block_q;
  if (m.q_blocks != q_blocks) {
    fail(ErrorKind::kValue, "block_mask",
         "must have ceil(q_len / block_q) = ceil(" + std::to_string(p.q_len()) + " / " +
             std::to_string(m.block_q) + ") = " + std::to_string(q_blocks) + " rows of blocks",
         std::to_string(m.q_blocks), "Build it for this q_len.");
  }
  if (m.full_width < 0 || m.partial_width < 0) {
    fail(ErrorKind::kValue, "block_mask", "must have lists of a width >= 0",
         std::to_string(m.full_width), "Build it with BlockMask's constructors.");
  }
}

// True if every element has an address of its own: sorted by stride, each dimension steps over all
// smaller ones.
bool is_injective(const TensorLayout& layout) {
  std::array<int, 4> order = {0, 1, 2, 3};
  for (int i = 0; i < 4; ++i) {
    for (int j = i + 1; j < 4; ++j) {
      if (layout.stride[order[j]] < layout.stride[order[i]]) std::swap(order[i], order[j]);
    }
  }
  int64_t reach = 0;  // the largest offset of the dimensions seen so far
  for (int i : order) {
    if (layout.shape[i] == 1) continue;
    if (layout.stride[i] <= reach) return false;
    reach += (layout.shape[i] - 1) * layout.stride[i];
  }
  return true;
}

void check_out(const AttentionProblem& p) {
  check_shape("out", p.out, {p.batch(), p.q_heads(), p.q_len(), p.v_head_dim()},
              "[batch, q_heads, q_len, v_head_dim]");
  check_same_device("out", p.out, p.q);
  check_same_dtype("out", p.out, p.q);
  check_unit_stride("out", p.out);
  if (!is_empty(p.out) && !is_injective(p.out)) {
    fail(ErrorKind::kValue, "out", "must not overlap itself (an expanded or unfolded view)",
         "strides " + text(p.out.stride), "Pass a tensor that owns its memory.");
  }
}

}  // namespace

uint16_t address_alignment(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | 16;
  return static_cast<uint16_t>(address & (~address + 1));  // the lowest bit that is set
}

void validate_problem(const AttentionProblem& problem) {
  check_tensors(problem);
  check_numbers(problem);
  check_mask(problem);
  check_block_mask(problem);
  check_out(problem);
}

AddressRules::AddressRules(const AttentionProblem& problem) {
  const bool aligned = problem.q.device == DeviceType::kCuda;
  const auto add = [&](const char* name, const TensorLayout& layout) {
    Tensor& tensor = tensors_[count_++];
    tensor.name = name;
    if (aligned) tensor.alignment = layout.address_alignment;
    if (is_empty(layout)) return;
    const int64_t size = bytes_per_element(layout.dtype);
    tensor.end = size;
    for (int i = 0; i < 4; ++i) {
      const int64_t reach = (layout.shape[i] - 1) * layout.stride[i] * size;
      (reach < 0 ? tensor.begin : tensor.end) += reach;
    }
  };
  add("out", problem.out);
  add("Q", problem.q);
  add("K", problem.k);
  add("V", problem.v);
  if (problem.mask_kind != MaskKind::kNone) add("attn_mask", problem.mask);
}

void AddressRules::check(const AttentionBuffers& buffers) const {
  const void* const data[] = {buffers.out, buffers.q, buffers.k, buffers.v, buffers.mask};
  const auto out = reinterpret_cast<int64_t>(buffers.out);
  for (int i = 0; i < count_; ++i) {
    const Tensor& tensor = tensors_[i];
    const auto address = reinterpret_cast<int64_t>(data[i]);
    if ((address & (tensor.alignment - 1)) != 0) fail_alignment(tensor, data[i]);
    const bool apart = out + tensors_[0].end <= address + tensor.begin ||
                       address + tensor.end <= out + tensors_[0].begin || tensors_[0].end == 0 ||
                       tensor.end == 0;
    if (i > 0 && !apart) fail_overlap(tensor);
  }
}

// Kernels of a GPU are chosen by what the problem says of its addresses.
void AddressRules::fail_alignment(const Tensor& tensor, const void* data) {
  fail(ErrorKind::kValue, tensor.name,
       "must start at a multiple of " + std::to_string(tensor.alignment) +
           " bytes, as TensorLayout::address_alignment says",
       "a multiple of " + std::to_string(address_alignment(data)),
       "Set the layout's address_alignment to address_alignment(data).");
}

void AddressRules::fail_overlap(const Tensor& tensor) {
  fail(ErrorKind::kValue, "out", std::string("must lie apart from ") + tensor.name + " in memory",
       "address ranges that overlap", "Pass a tensor of its own, such as torch.empty_like(Q).");
}

void validate(const AttentionProblem& problem, const AttentionBuffers& buffers) {
  validate_problem(problem);
  AddressRules(problem).check(buffers);
}

}  // namespace bsk
