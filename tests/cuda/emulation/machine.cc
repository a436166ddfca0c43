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
                     const std::function<void()>& entry, int cluster, int grid_y) {
  if (shared_bytes > Cta::kSharedBytes) throw Fault("more shared memory than a CTA can have");
  if (grid % cluster != 0) throw Fault("the grid is not a whole number of clusters");
  timing_ = timing;
  cluster_ = cluster;
  threads_ = threads;
  shared_bytes_ = shared_bytes;
  entry_ = &entry;
  multiplies_run = warp_multiplies_run = 0;
  for (int y = 0; y < grid_y; ++y) {
    for (int block = 0; block < grid; block += cluster) run_cluster(block, y);
  }
}

void Machine::run_cluster(int first_block, int block_y) {
  const int fibers = cluster_ * threads_;
  ctas_.resize(cluster_);
  fibers_.resize(fibers);
  barriers_.clear();
  tile_copies_.clear();
  small_copies_.clear();
  fault_.clear();
  cluster_barrier_ = Rendezvous{};
  for (int rank = 0; rank < cluster_; ++rank) {
    if (ctas_[rank] == nullptr) ctas_[rank] = std::make_unique<Cta>();
    Cta& cta = *ctas_[rank];
    cta.block = first_block + rank;
    cta.block_y = block_y;
    std::memset(cta.shared, kPoison, sizeof cta.shared);
    cta.warps.assign(threads_ / arch::kWarpThreads, Rendezvous{});
    cta.warpgroups.assign((threads_ + 127) / arch::kWarpgroupThreads, Warpgroup{});
    std::fill(std::begin(cta.named), std::end(cta.named), Rendezvous{});
  }
  for (int i = 0; i < fibers; ++i) {
    auto stack = std::move(fibers_[i].stack);
    fibers_[i] = Fiber{};
    fibers_[i].stack = std::move(stack);
    fibers_[i].stack.resize(kStackBytes);
    fibers_[i].cta = ctas_[i / threads_].get();
    fibers_[i].thread = i % threads_;
#if defined(__SANITIZE_ADDRESS__)  // what a fiber that a fault ended has left on its stack
    __asan_unpoison_memory_region(fibers_[i].stack.data(), kStackBytes);
#endif
    std::memset(&fibers_[i].stack[kStackBytes - kPoisonedStackBytes], kPoison, kPoisonedStackBytes);
  }
  // With an odd seed each CTA runs as far as it gets before the next one, so that they drift apart;
  // with an even one all threads of the cluster take turns.
  std::mt19937 random(timing_.seed * 977 + first_block);
  std::vector<std::vector<int>> orders(timing_.seed % 2 ? cluster_ : 1);
  for (int i = 0; i < fibers; ++i) orders[i * orders.size() / fibers].push_back(i);
  std::shuffle(orders.begin(), orders.end(), random);
  for (std::vector<int>& order : orders) std::shuffle(order.begin(), order.end(), random);

  int finished = 0;
  while (finished < fibers) {
    bool progress = false;
    for (const std::vector<int>& order : orders) {
      for (bool again = true; again;) {
        again = false;
        for (const int index : order) {
          Fiber& fiber = fibers_[index];
          if (fiber.finished) continue;
          if (fiber.ready != nullptr && !fiber.ready(fiber.ready_argument)) continue;
          fiber.ready = nullptr;
          progress = again = true;
          resume(fiber);
          if (!fault_.empty()) throw Fault(fault_);
          if (fiber.finished) ++finished;
        }
      }
    }
    if (!progress) {
      const size_t choices = tile_copies_.size() + (small_copies_.empty() ? 0 : 1);
      if (choices == 0)
        throw Fault("deadlock in CTA " + std::to_string(first_block) + stuck_threads());
      const size_t choice = random() % choices;
      std::function<void()> copy;
      if (choice < tile_copies_.size()) {
        copy = std::move(tile_copies_[choice]);
        tile_copies_.erase(tile_copies_.begin() + static_cast<ptrdiff_t>(choice));
      } else {
        copy = std::move(small_copies_.front());
        small_copies_.pop_front();
      }
      copy();
    }
  }
  const bool all_copied = std::all_of(fibers_.begin(), fibers_.begin() + fibers,
                                      [](const Fiber& f) { return f.small_copies.empty(); });
  if (!tile_copies_.empty() || !small_copies_.empty() || !all_copied)
    throw Fault("the CTA ended while a copy into its shared memory was running");
  for (const auto& cta : ctas_) {
    for (const Warpgroup& group : cta->warpgroups) {
      if (group.executed != group.first + static_cast<int64_t>(group.multiplies.size())) {
        throw Fault("the CTA ended without waiting for its last multiply");
      }
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
  fault_ = "thread " + std::to_string(current_->thread) + " of CTA " + std::to_string(cta().block) +
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
  return static_cast<uint32_t>(static_cast<const std::byte*>(pointer) - shared());
}

uint64_t Machine::exchange(uint64_t value, int source_lane) {
  const int lane = current_->thread % arch::kWarpThreads;
  Rendezvous& warp = cta().warps[current_->thread / arch::kWarpThreads];
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

std::array<uint64_t, arch::kWarpThreads> Machine::gather(uint64_t value) {
  const Rendezvous& warp = cta().warps[current_->thread / arch::kWarpThreads];
  const int parity = warp.generation & 1;
  exchange(value, 0);
  return std::to_array(warp.values[parity]);
}

uint32_t Machine::ballot(bool predicate) {
  uint32_t votes = 0;
  const auto values = gather(predicate);
  for (int lane = 0; lane < arch::kWarpThreads; ++lane) {
    votes |= static_cast<uint32_t>(values[lane] != 0) << lane;
  }
  return votes;
}

void Machine::arrive(int id, int threads) {
  Rendezvous& named = cta().named[id];
  if (++named.arrived == threads) {
    named.arrived = 0;
    ++named.generation;
  }
}

void Machine::sync(int id, int threads) {
  const Rendezvous& named = cta().named[id];
  const int64_t generation = named.generation;
  arrive(id, threads == 0 ? threads_ : threads);
  wait_until([&named, generation] { return named.generation != generation; }, "named barrier", id);
}

int64_t Machine::arrive_cluster() {
  const int64_t generation = cluster_barrier_.generation;
  if (++cluster_barrier_.arrived == cluster_ * threads_) {
    cluster_barrier_.arrived = 0;
    ++cluster_barrier_.generation;
  }
  return generation;
}

void Machine::wait_cluster(int64_t generation) {
  wait_until([this, generation] { return cluster_barrier_.generation != generation; },
             "its cluster", 0);
}

std::byte* Machine::at_rank(const void* place, int rank) {
  if (rank < 0 || rank >= cluster_) {
    fault("CTA " + std::to_string(rank) + " of a cluster of " + std::to_string(cluster_));
  }
  const uint32_t offset = shared_address(place);
  if (offset >= static_cast<uint32_t>(shared_bytes_)) fault("a place outside shared memory");
  Cta& other = *ctas_[rank];
  const Fiber* const first = &fibers_[rank * threads_];
  if (std::all_of(first, first + threads_, [](const Fiber& f) { return f.finished; })) {
    fault("shared memory is read of a CTA that has ended");
  }
  return other.shared + offset;
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

bool Machine::barrier_test(uint64_t* barrier, uint32_t parity) {
  return (state_of(barrier).phase & 1) != (parity & 1);
}

}  // namespace bsk::emulation
