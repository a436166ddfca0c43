// `attention_forward`: what a call has prepared serves the next one with an equal problem.
#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <string>

#include "src/attention/kernel.h"
#include "src/attention/settings.h"
#include "src/attention/validate.h"
#include "src/cpu/kernels.h"

namespace bsk {
namespace {

// Everything that a launch was derived from, and the launch.
struct PreparedCall {
  explicit PreparedCall(const AttentionProblem& p) : problem(p), addresses(p) {}

  uint64_t generation = 0;  // of the settings
  const AttentionProblem problem;
  DeviceProperties device;
  std::string forced;

  const AddressRules addresses;
  bool check_lists = false;  // their contents, in debug mode
  AttentionPlan plan;
  std::unique_ptr<PreparedLaunch> launch;
};

// What programs vary from call to call; the rest is compared.
uint64_t hash_of(const AttentionProblem& p) {
  uint64_t hash = 0;
  const auto mix = [&hash](auto value) {
    hash = (hash ^ static_cast<uint64_t>(value)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  };
  for (const int64_t size : p.q.shape) mix(size);
  mix(p.kv_heads());
  mix(p.kv_len());
  mix(p.v_head_dim());
  mix(p.q.stride[2]);
  mix(p.k.stride[2]);
  mix(p.window_left);
  mix(p.block_mask.full_width);
  mix(std::bit_cast<uint64_t>(p.scale));
  mix(static_cast<int>(p.q.dtype) | static_cast<int>(p.causal) << 8 |
      static_cast<int>(p.mask_kind) << 16 | static_cast<int>(p.return_lse) << 24);
  mix(p.q.device_index);
  return hash;
}

// The name is for messages only.
bool same_device(const DeviceProperties& a, const DeviceProperties& b) {
  return a.type == b.type && a.compute_capability == b.compute_capability &&
         a.multiprocessors == b.multiprocessors && a.shared_bytes == b.shared_bytes &&
         a.threads == b.threads;
}

std::unique_ptr<PreparedCall> prepare(const AttentionProblem& problem,
                                      const AttentionBuffers& buffers,
                                      const DeviceProperties& device, const std::string& forced) {
  validate_problem(problem);
  auto call = std::make_unique<PreparedCall>(problem);
  call->addresses.check(buffers);
  // Read before the settings are: if they change meanwhile, the next call prepares again.
  call->generation = settings_generation();
  if (problem.q.dtype == DataType::kFloat64 && forced != kCpuReference.name) {
    fail(ErrorKind::kType, "Q", "must be float32, float16 or bfloat16", "float64",
         "Convert Q, K and V with .float().");
  }
  call->check_lists =
      problem.block_mask.present && device.type == DeviceType::kCpu && settings()->debug_mode;
  call->device = device;
  call->forced = forced;
  call->plan = plan(problem, device, forced);
  call->launch = call->plan.kernel->prepare(problem, call->plan);
  return call;
}

// The calls that a thread has prepared: no lock, and a launch is used by one thread at a time. 16
// sets of 4, the latest used first in each; the oldest of a set makes room.
class PreparedCalls {
 public:
  // Null where there is none.
  PreparedCall* find(const AttentionProblem& problem, const DeviceProperties& device,
                     const std::string& forced) {
    const uint64_t generation = settings_generation();
    const auto serves = [&](const auto& call) {
      return call != nullptr && call->generation == generation && call->problem == problem &&
             same_device(call->device, device) && call->forced == forced;
    };
    // As a rule the layers of a model call with one problem, one after the other.
    if (last_ != nullptr && serves(*last_)) return last_->get();
    auto& set = sets_[hash_of(problem) % kSets];
    const auto found = std::find_if(set.begin(), set.end(), serves);
    if (found == set.end()) return nullptr;
    std::rotate(set.begin(), found, found + 1);
    last_ = &set.front();
    return last_->get();
  }

  PreparedCall& add(std::unique_ptr<PreparedCall> call) {
    auto& set = sets_[hash_of(call->problem) % kSets];
    std::rotate(set.begin(), set.end() - 1, set.end());
    set.front() = std::move(call);
    last_ = &set.front();
    return *set.front();
  }

 private:
  static constexpr size_t kSets = 16;
  using Slot = std::unique_ptr<PreparedCall>;
  std::array<std::array<Slot, 4>, kSets> sets_;
  const Slot* last_ = nullptr;
};

}  // namespace

const AttentionPlan& attention_forward(const AttentionProblem& problem,
                                       const AttentionBuffers& buffers,
                                       const DeviceProperties& device, const std::string& forced) {
  thread_local PreparedCalls calls;
  PreparedCall* call = calls.find(problem, device, forced);
  if (call != nullptr) {
    call->addresses.check(buffers);
  } else {
    call = &calls.add(prepare(problem, buffers, device, forced));
  }
  if (call->check_lists) check_block_lists(problem, buffers.block_mask);
  if (call->launch != nullptr) call->launch->launch(buffers);
  return call->plan;
}

}  // namespace bsk
