// BlackwellSparseK's C++ interface: exact attention, dense and block-sparse.
//
// A call becomes a problem, a problem becomes a plan, a plan becomes one launch. Nothing here needs
// torch, CUDA or Python. Sizes are in elements unless a name says otherwise.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "bsk/block_mask.h"
#include "bsk/error.h"

namespace bsk {

enum class DeviceType : uint8_t { kCpu, kCuda };

enum class DataType : uint8_t { kFloat64, kFloat32, kFloat16, kBFloat16, kBool };

// Where the causal diagonal starts when q_len != kv_len.
enum class Causal : uint8_t {
  kNone,
  kUpperLeft,   // query i sees keys j <= i (torch SDPA's meaning)
  kLowerRight,  // the last query sees the last key: j <= i + kv_len - q_len (FlashAttention's
                // meaning)
};

enum class MaskKind : uint8_t { kNone, kBool, kAdditive };

struct TensorLayout {
  DataType dtype = DataType::kFloat32;
  DeviceType device = DeviceType::kCpu;
  // Bytes that the data's address is a multiple of: 1, 2, 4, 8 or 16 (also where it is one of
  // more). GPU kernels need 16.
  uint16_t address_alignment = 16;
  int32_t device_index = 0;
  std::array<int64_t, 4> shape{};   // [batch, heads, rows, columns]
  std::array<int64_t, 4> stride{};  // in elements; 0 where a size-1 dimension is broadcast

  // Every call compares five of these with those of an earlier one.
  bool operator==(const TensorLayout& other) const {
    return std::memcmp(this, &other, sizeof(*this)) == 0;
  }
};
static_assert(std::has_unique_object_representations_v<TensorLayout>);

// Everything about a call but the data. Scores are computed as
//   s = scale * <q, k>; s = softcap * tanh(s / softcap) if softcap > 0; s += additive mask;
// then every boolean rule (causal, window, bool mask, block mask) removes pairs.
struct AttentionProblem {
  TensorLayout q;    // [batch, q_heads, q_len, head_dim]
  TensorLayout k;    // [batch, kv_heads, kv_len, head_dim]
  TensorLayout v;    // [batch, kv_heads, kv_len, v_head_dim]
  TensorLayout out;  // [batch, q_heads, q_len, v_head_dim]

  double scale = 0.0;
  double softcap = 0.0;  // 0 = none
  Causal causal = Causal::kNone;
  int64_t window_left = -1;  // keys left of the diagonal that stay visible; -1 = unbounded
  int64_t window_right = -1;

  MaskKind mask_kind = MaskKind::kNone;
  TensorLayout mask;  // attn_mask: each size is 1 or the size of [batch, q_heads, q_len, kv_len]

  BlockMaskLayout block_mask;
  bool return_lse = false;

  bool operator==(const AttentionProblem&) const = default;

  int64_t batch() const { return q.shape[0]; }
  int64_t q_heads() const { return q.shape[1]; }
  int64_t kv_heads() const { return k.shape[1]; }
  int64_t q_len() const { return q.shape[2]; }
  int64_t kv_len() const { return k.shape[2]; }
  int64_t head_dim() const { return q.shape[3]; }
  int64_t v_head_dim() const { return v.shape[3]; }

  // Key j sits on query i's diagonal when j == i + diagonal_offset().
  int64_t diagonal_offset() const { return causal == Causal::kUpperLeft ? 0 : kv_len() - q_len(); }
};

struct AttentionBuffers {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* mask = nullptr;
  void* out = nullptr;
  float* lse = nullptr;  // [batch, q_heads, q_len], contiguous, natural log
  BlockMaskBuffers block_mask;
  void* stream = nullptr;  // CUstream, on a GPU
};

struct Kernel;

// What a kernel will do with a problem: pure data, printable, made without a GPU.
struct AttentionPlan {
  const Kernel* kernel = nullptr;
  std::string config;        // the kernel's configuration, "" where it has one only
  int32_t q_tile = 0;        // query rows of one task
  int32_t kv_tile = 0;       // keys of one step
  int64_t tasks = 0;         // CTAs on a GPU, units of work for the threads of a CPU
  int64_t dealt = 0;         // of the CTAs, the last: one task each; the others may have more
  int64_t row_tiles = 0;     // of 64 rows, of each CTA, where they are shared out evenly; else 0
  int32_t threads = 0;       // per CTA on a GPU, of the process on a CPU
  int32_t splits = 1;        // parts that a row's keys are divided into
  int64_t shared_bytes = 0;  // shared memory per CTA
};

struct DeviceProperties {
  DeviceType type = DeviceType::kCpu;
  std::string name;
  int32_t compute_capability = 0;  // 90 = sm_90; 0 on a CPU
  int32_t multiprocessors = 0;
  int64_t shared_bytes = 0;  // per CTA, opt-in maximum
  int32_t threads = 1;       // that a call may use on a CPU
};

// Rules that hold for every kernel; throws Error (kValue, kType) at the first one broken.
void validate(const AttentionProblem& problem, const AttentionBuffers& buffers);

// The first kernel, in order of preference, that can take the problem; throws Error(kUnsupported)
// with every kernel's reasons where none can. `forced` names a kernel to take instead ("" = none).
const Kernel& choose_kernel(const AttentionProblem& problem, const DeviceProperties& device,
                            const std::string& forced = "");

// What `choose_kernel`'s kernel will do.
AttentionPlan plan(const AttentionProblem& problem, const DeviceProperties& device,
                   const std::string& forced = "");

std::string to_string(const AttentionPlan& plan);

// The data starts at an address of this alignment: what TensorLayout::address_alignment is to say.
uint16_t address_alignment(const void* data);

// Validates, plans and launches; what it prepared for a problem it keeps, so that the next call
// with an equal one only launches. On a CPU it returns when the result is there; on a GPU it only
// enqueues. The plan it returns lives until this thread's next call.
const AttentionPlan& attention_forward(const AttentionProblem& problem,
                                       const AttentionBuffers& buffers,
                                       const DeviceProperties& device,
                                       const std::string& forced = "");

// For C++ callers: the layout of a contiguous tensor, and the problem of dense attention over
// contiguous tensors (scale = 1 / sqrt(head_dim)), to be adjusted field by field.
TensorLayout contiguous(DataType dtype, std::array<int64_t, 4> shape);
AttentionProblem dense_problem(DataType dtype, int64_t batch, int64_t q_heads, int64_t kv_heads,
                               int64_t q_len, int64_t kv_len, int64_t head_dim, int64_t v_head_dim);

// The CPU of this process; `threads` 0 = what OMP_NUM_THREADS or the machine allows.
DeviceProperties cpu_properties(int32_t threads = 0);

const char* to_string(DataType dtype);
std::string to_string(DeviceType type, int32_t index);  // "cpu", "cuda:0"
int64_t bytes_per_element(DataType dtype);

}  // namespace bsk
