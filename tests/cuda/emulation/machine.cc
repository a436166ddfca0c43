// Fibers, their scheduler, and everything by which threads wait for one another.
#include "tests/cuda/emulation/machine.h"

#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <algorithm>
#include <cstring>
#include <random>

namespace bsk::emulation {
namespace {

constexpr int kStackBytes = 128 * 1024;
constexpr int kPoisonedStackBytes = 24 * 1024;
constexpr int kPoison = 0xff;  // NaN as fp16, bf16 and fp32

}  // namespace

Machine& machine() {
  static Machine* const instance = new Machine;
  return *instance;
}

void Machine::launch(int grid, int threads, int shared_bytes, Timing timing,
                     const std::function<void()>& entry) {
  if (shared_bytes > kSharedBytes) throw Fault("more shared memory than a CTA can have");
  timing_ = timing;
  grid_ = grid;
  threads_ = threads;
  shared_bytes_ = shared_bytes;
  entry_ = &entry;
  multiplies_run = 0;
  for (block_ = 0; block_ < grid; ++block_) run_block(threads, entry);
}

void Machine::run_block(int threads, const std::function<void()>&) {
  std::memset(shared_, kPoison, sizeof shared_);
  fibers_.resize(threads);
  warps_.assign(threads / arch::kWarpThreads, Rendezvous{});
  warpgroups_.assign((threads + 127) / arch::kWarpgroupThreads, Warpgroup{});
  std::fill(std::begin(named_), std::end(named_), Rendezvous{});
  barriers_.clear();
  copies_.clear();
  fault_.clear();
  for (int i = 0; i < threads; ++i) {
    auto stack = std::move(fibers_[i].stack);
    fibers_[i] = Fiber{};
    fibers_[i].stack = std::move(stack);
    fibers_[i].stack.resize(kStackBytes);
    fibers_[i].thread = i;
#if defined(__SANITIZE_ADDRESS__)  // what a fiber that a fault ended has left on its stack
    __asan_unpoison_memory_region(fibers_[i].stack.data(), kStackBytes);
#endif
    std::memset(&fibers_[i].stack[kStackBytes - kPoisonedStackBytes], kPoison, kPoisonedStackBytes);
  }
  std::vector<int> order(threads);
  for (int i = 0; i < threads; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(timing_.seed * 977 + block_));

  int finished = 0;
  while (finished < threads) {
    bool progress = false;
    for (const int index : order) {
      Fiber& fiber = fibers_[index];
      if (fiber.finished) continue;
      if (fiber.ready != nullptr && !fiber.ready(fiber.ready_argument)) continue;
      fiber.ready = nullptr;
      progress = true;
      resume(fiber);
      if (!fault_.empty()) throw Fault(fault_);
      if (fiber.finished) ++finished;
    }
    if (!progress) {
      if (copies_.empty())
        throw Fault("deadlock in CTA " + std::to_string(block_) + stuck_threads());
      perform(copies_.front());
      copies_.pop_front();
    }
  }
  if (!copies_.empty())
    throw Fault("the CTA ended while a copy into its shared memory was running");
  for (const Warpgroup& group : warpgroups_) {
    if (group.executed != group.first + static_cast<int64_t>(group.multiplies.size())) {
      throw Fault("the CTA ended without waiting for its last multiply");
    }
  }
}

void Machine::fiber_main() {
  Machine& self = machine();
  (*self.entry_)();
  self.current_->finished = true;
  _longjmp(self.scheduler_, 1);
}

void Machine::fault(const std::string& what) {
  fault_ = "thread " + std::to_string(current_->thread) + " of CTA " + std::to_string(block_) +
           ": " + what;
  _longjmp(scheduler_, 1);
}

void Machine::leave() {
  if (_setjmp(current_->context) == 0) _longjmp(scheduler_, 1);
}

void Machine::resume(Fiber& fiber) {
  current_ = &fiber;
  if (_setjmp(scheduler_) != 0) return;
  if (fiber.started) _longjmp(fiber.context, 1);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.data();
  context.uc_stack.ss_size = fiber.stack.size();
  context.uc_link = nullptr;
  makecontext(&context, &Machine::fiber_main, 0);
  setcontext(&context);
}

std::string Machine::stuck_threads() const {
  std::string text;
  for (size_t i = 0; i < fibers_.size();) {
    const auto same = [&](const Fiber& f) {
      return f.finished == fibers_[i].finished && f.waits_for == fibers_[i].waits_for &&
             f.waits_for_id == fibers_[i].waits_for_id;
    };
    size_t end = i;
    while (end < fibers_.size() && same(fibers_[end])) ++end;
    text += "\n  threads " + std::to_string(i) + ".." + std::to_string(end - 1) + ": ";
    text += fibers_[i].finished ? "finished"
                                : std::string("wait for ") + fibers_[i].waits_for + " " +
                                      std::to_string(fibers_[i].waits_for_id);
    i = end;
  }
  return text;
}

uint32_t Machine::shared_address(const void* pointer) const {
  return static_cast<uint32_t>(static_cast<const std::byte*>(pointer) - shared_);
}

uint64_t Machine::exchange(uint64_t value, int source_lane) {
  const int lane = current_->thread % arch::kWarpThreads;
  Rendezvous& warp = warps_[current_->thread / arch::kWarpThreads];
  const int64_t generation = warp.generation;
  uint64_t (&values)[arch::kWarpThreads] = warp.values[generation & 1];
  values[lane] = value;
  if (++warp.arrived == arch::kWarpThreads) {
    warp.arrived = 0;
    ++warp.generation;
  }
  wait_until([&warp, generation] { return warp.generation != generation; }, "its warp", 0);
  return values[source_lane];
}

uint32_t Machine::ballot(bool predicate) {
  const int warp = current_->thread / arch::kWarpThreads;
  const int parity = warps_[warp].generation & 1;
  exchange(predicate, 0);
  uint32_t votes = 0;
  for (int lane = 0; lane < arch::kWarpThreads; ++lane) {
    votes |= static_cast<uint32_t>(warps_[warp].values[parity][lane] != 0) << lane;
  }
  return votes;
}

void Machine::arrive(int id, int threads) {
  if (++named_[id].arrived == threads) {
    named_[id].arrived = 0;
    ++named_[id].generation;
  }
}

void Machine::sync(int id, int threads) {
  const int64_t generation = named_[id].generation;
  arrive(id, threads == 0 ? threads_ : threads);
  wait_until([this, id, generation] { return named_[id].generation != generation; },
             "named barrier", id);
}

BarrierState& Machine::state_of(uint64_t* barrier) {
  const auto found = barriers_.find(barrier);
  if (found == barriers_.end()) fault("a barrier is used that was never initialised");
  return found->second;
}

void Machine::advance_phase(BarrierState& state) {
  if (state.pending != 0 || state.pending_bytes != 0) return;
  ++state.phase;
  state.pending = state.arrivals;
}

void Machine::barrier_init(uint64_t* barrier, int arrivals) {
  barriers_[barrier] = BarrierState{arrivals, arrivals, 0, 0};
}

void Machine::barrier_arrive(uint64_t* barrier, int64_t expected_bytes) {
  BarrierState& state = state_of(barrier);
  if (state.pending == 0) {
    fault("more arrivals than barrier " + std::to_string(shared_address(barrier)) + " expects");
  }
  --state.pending;
  state.pending_bytes += expected_bytes;
  advance_phase(state);
}

void Machine::barrier_wait(uint64_t* barrier, uint32_t parity) {
  BarrierState& state = state_of(barrier);
  wait_until([&state, parity] { return (state.phase & 1) != (parity & 1); },
             "the barrier in shared memory at", static_cast<int>(shared_address(barrier)));
}

}  // namespace bsk::emulation
