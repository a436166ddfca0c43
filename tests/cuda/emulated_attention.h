// Runs a kernel's own source under the emulator on a problem made from a seed, and compares with
// the fp64 reference.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bsk/attention.h"
#include "src/cuda/host/tensor_map.h"
#include "tests/cuda/emulation/machine.h"

namespace bsk::test {

// One problem; every field has a value that changes nothing.
struct Case {
  std::string name;
  DataType dtype = DataType::kFloat16;
  int64_t batch = 1, q_heads = 1, kv_heads = 1, q_len = 0, kv_len = 0, head_dim = 64,
          v_head_dim = 64;
  Causal causal = Causal::kNone;
  int64_t window_left = -1, window_right = -1;
  double scale = 0.0;  // 0 = 1 / sqrt(head_dim); kZeroScale = really 0
  double softcap = 0.0;
  MaskKind mask_kind = MaskKind::kNone;
  DataType mask_dtype = DataType::kBool;
  std::vector<int64_t> mask_shape = {};  // 4, each 1 or the problem's
  std::vector<int64_t> kept = {};    // keys that a bool mask keeps, of each of its batch entries
  int64_t mask_shift = 0;            // elements between an aligned address and the mask's
  int64_t mask_gap = 0;              // elements between its rows
  float mask_slope = 0.0f;           // by which an additive mask rises from key to key
  int64_t mask_hides = 0;            // row r of it hides the first r * mask_hides keys
  bool mask_transposed = false;      // columns far apart, rows side by side
  bool mask_expanded = false;        // stride 0 and the problem's size where the shape says 1
  int32_t block_q = 0, block_k = 0;  // 0 = no block mask
  double full_density = 0.3, partial_density = 0.2;
  int64_t mask_heads = 1;
  bool repeat_kv_batch = false;  // stride 0
  bool nan_query = false, infinite_key = false;
  int multiprocessors = 2;  // CTAs of the emulated GPU
};
constexpr double kZeroScale = -1e300;

// Memory in which no byte in front of the first or behind the last can be read: as far as whole
// units of 16 bytes, whose last may have NaN, and on one side.
class GuardedBytes {
 public:
  enum class Guard { kInFront, kBehind };
  GuardedBytes() = default;
  GuardedBytes(const std::vector<uint8_t>& bytes, Guard guard);
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(GuardedBytes&& other) noexcept;
  ~GuardedBytes();
  uint8_t* data() const { return data_; }

 private:
  uint8_t* pages_ = nullptr;
  size_t size_ = 0;  // of the pages
  uint8_t* data_ = nullptr;
};

// A case's tensors: rows far apart with NaN between them, and NaN behind the last.
class Tensors {
 public:
  explicit Tensors(const Case& c);
  AttentionProblem problem;
  AttentionBuffers buffers;
  void poison_output();
  std::vector<uint16_t> output() const { return out_; }

 private:
  friend void expect_matches(const Case&, const Tensors&);
  std::vector<uint16_t> q_, k_, v_, out_;
  GuardedBytes mask_;
  std::vector<float> lse_;
  std::vector<int32_t> full_counts_, full_indices_, partial_counts_, partial_indices_;
  std::vector<uint8_t> partial_bits_;
};

// Output, LSE, positions of NaN and inf, and everything around the output left as it was.
void expect_matches(const Case& c, const Tensors& tensors);

arch::TensorMap encode_for_emulator(const cuda::TensorMapSpec& spec, const void* address);

// Kernels compiled for the emulator, by the name of their Config type. `Params` is type-erased.
using EmulatedEntry = std::function<void(const void* params)>;
std::vector<std::pair<std::string, EmulatedEntry>>& emulated_kernels();
struct RegisterEmulated {
  // `config` may have been broken behind its bracket.
  RegisterEmulated(std::string config, EmulatedEntry entry) {
    if (const size_t broken = config.find("< "); broken != std::string::npos) {
      config.erase(broken + 1, 1);
    }
    emulated_kernels().emplace_back(std::move(config), std::move(entry));
  }
};
const EmulatedEntry& emulated_kernel(const std::string& config);

// A Hopper GPU of so many multiprocessors.
DeviceProperties emulated_gpu(int multiprocessors);

// Launches a kernel as its plan says; clusters in grid_y rows of CTAs.
template <class Params>
void launch_emulated(const std::string& config, Params params,
                     const std::vector<cuda::TensorMapSpec>& specs, const Tensors& tensors,
                     const AttentionPlan& plan, emulation::Timing timing, int cluster = 1,
                     int grid_y = 1) {
  params.q = encode_for_emulator(specs[0], tensors.buffers.q);
  params.k = encode_for_emulator(specs[1], tensors.buffers.k);
  params.v = encode_for_emulator(specs[2], tensors.buffers.v);
  if constexpr (requires { params.mask_map; }) {
    if (specs.size() > 3) params.mask_map = encode_for_emulator(specs[3], tensors.buffers.mask);
  }
  const EmulatedEntry& entry = emulated_kernel(config);
  emulation::machine().launch(
      static_cast<int>(plan.tasks) / grid_y, plan.threads, static_cast<int>(plan.shared_bytes),
      timing, [&] { entry(&params); }, cluster, grid_y);
}

}  // namespace bsk::test
