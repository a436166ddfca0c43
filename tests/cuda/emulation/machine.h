// A functional emulator of one Hopper CTA, or of the CTAs of one cluster, so that the kernels' own
// source runs on a CPU.
//
// Every CUDA thread is a fiber. Barriers, shuffles, the copy engine and the warpgroup multiply keep
// their rules: phases and transaction bytes, swizzled tiles, descriptors, register fragments,
// asynchrony. It knows nothing of time, caches or memory ordering between threads. What breaks a
// rule throws Fault with the threads and what they wait for.
#pragma once

#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/cuda/arch/types.h"

namespace bsk::emulation {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// When asynchronous work happens inside what the hardware allows. A multiply that reads early shows
// a wait for data that is missing; one that reads late shows a stage that is released too soon.
struct Timing {
  bool late_multiply = false;  // at the wait that retires it instead of at its issue
  bool late_copy = false;      // when no thread can run instead of at its issue
  uint32_t seed = 0;           // order in which threads run; odd: one CTA of a cluster runs ahead
};
constexpr Timing kTimings[] = {{false, true, 1}, {true, false, 2}, {true, true, 3}};

// What the emulated copy engine finds in a TensorMap's 128 bytes.
struct TensorMapContents {
  const std::byte* base;
  int32_t size[5];          // elements; [0] is contiguous; 0 = no such dimension
  int64_t stride_bytes[4];  // of dimensions 1..4
  int32_t box[5];           // elements of a tile; a row of it is as wide as the swizzle
  int32_t element_bytes;
};
arch::TensorMap encode(const TensorMapContents& contents);

// A barrier in shared memory (PTX ISA: mbarrier).
struct BarrierState {
  int arrivals = 0;
  int pending = 0;
  int64_t pending_bytes = 0;
  uint32_t phase = 0;
};

struct Copy {
  arch::TensorMap map;
  uint64_t* barrier;
  std::byte* destination;
  int coordinate[5];
  int bytes;
  struct Cta* cta;  // whose shared memory it fills
};

struct SmallCopy {  // of 16 bytes, by a thread
  std::byte* destination;
  const void* source;
};

// Accumulators that unfinished multiplies own; the registers hold NaN meanwhile.
struct Accumulator {
  int columns = 0;
  std::vector<float> values;  // [64, columns]
};

struct Multiply {
  bool a_in_registers = false;
  arch::Element element = arch::Element::kFloat16;
  int columns = 0;
  uint64_t a_descriptor = 0, b_descriptor = 0;
  bool accumulate = false;
  float* d[arch::kWarpgroupThreads] = {};
  const uint32_t* a[arch::kWarpgroupThreads] = {};
  int issued = 0;  // threads
  bool done = false;
  std::shared_ptr<Accumulator> accumulator;
};

struct Warpgroup {
  std::deque<Multiply> multiplies;  // from number `first` on
  int64_t first = 0;
  std::vector<int64_t> group_ends;  // number of multiplies issued when group i was committed
  int64_t executed = 0;
};

struct Rendezvous {  // of a warp or of a barrier: generation rises when all have come
  int arrived = 0;
  int64_t generation = 0;
  uint64_t values[2][arch::kWarpThreads] = {};
};

struct Cta {
  static constexpr int kSharedBytes = 227 * 1024;

  int block = 0, block_y = 0;
  alignas(1024) std::byte shared[kSharedBytes];
  std::vector<Rendezvous> warps;
  Rendezvous named[16];
  std::vector<Warpgroup> warpgroups;
};

struct Fiber {
  Cta* cta = nullptr;
  int thread = 0;  // in the CTA
  jmp_buf context;
  bool started = false, finished = false;
  bool (*ready)(void*) = nullptr;
  void* ready_argument = nullptr;
  const char* waits_for = "";
  int waits_for_id = 0;
  int64_t issued = 0;         // multiplies
  int64_t committed = 0;      // groups
  int64_t retired = 0;        // groups
  int64_t waits_reached = 0;  // calls of mma_wait
  bool needs_mma_fence = true;
  std::vector<SmallCopy> small_copies;  // that no arrival follows yet
  int arrivals_to_come = 0;             // after small copies
  std::vector<std::byte> stack;
};

class Machine {
 public:
  // Runs `entry` once per thread of each of grid * grid_y CTAs, one cluster of CTAs after the
  // other.
  void launch(int grid, int threads, int shared_bytes, Timing timing,
              const std::function<void()>& entry, int cluster = 1, int grid_y = 1);

  // What the emulated instructions call, on a fiber.
  int thread() const { return current_->thread; }
  int block() const { return cta().block; }
  int block_y() const { return cta().block_y; }
  int rank() const { return cta().block % cluster_; }  // of the CTA in its cluster
  std::byte* shared() const { return cta().shared; }
  uint32_t shared_address(const void* pointer) const;
  uint64_t exchange(uint64_t value, int source_lane);               // of the warp
  std::array<uint64_t, arch::kWarpThreads> gather(uint64_t value);  // of the warp's lanes
  uint32_t ballot(bool predicate);                                  // of the warp
  bool any(bool predicate) { return ballot(predicate) != 0; }
  void sync(int id, int threads);
  void arrive(int id, int threads);
  int64_t arrive_cluster();  // the generation that wait_cluster waits for the end of
  void wait_cluster(int64_t generation);
  void sync_cluster() { wait_cluster(arrive_cluster()); }
  // The place of CTA `rank` that corresponds to `place` of this one.
  std::byte* at_rank(const void* place, int rank);
  void barrier_init(uint64_t* barrier, int arrivals);
  void barrier_arrive(uint64_t* barrier, int64_t expected_bytes);
  void barrier_wait(uint64_t* barrier, uint32_t parity);
  bool barrier_test(uint64_t* barrier, uint32_t parity);
  void load_tile(const Copy& copy);
  void copy_16_bytes(uint32_t destination, const void* source);
  void arrive_after_copies(uint64_t* barrier);  // of 16 bytes, as wait_for_copies
  void wait_for_copies();
  void mma_fence() { current_->needs_mma_fence = false; }
  void mma_issue(const Multiply& multiply, float* d, const uint32_t* a);
  void mma_commit() { commit(warpgroup(), *current_); }
  void mma_wait(int pending_groups);
  [[noreturn]] void fault(const std::string& what);

  // Of the last launch, for tests on skipped work: warpgroups' multiplies, and warps', by lane.
  int64_t multiplies_run = 0, warp_multiplies_run = 0;

 private:
  template <class Ready>
  void wait_until(Ready ready, const char* what, int id) {
    if (ready()) return;
    Fiber& fiber = *current_;
    fiber.ready = [](void* argument) { return (*static_cast<Ready*>(argument))(); };
    fiber.ready_argument = &ready;
    fiber.waits_for = what;
    fiber.waits_for_id = id;
    leave();
  }
  void leave();               // to the scheduler; returns when `ready` holds
  void resume(Fiber& fiber);  // until it leaves
  void run_cluster(int first_block, int block_y);
  static void fiber_main();
  std::string stuck_threads() const;
  BarrierState& state_of(uint64_t* barrier);
  static void advance_phase(BarrierState& state);
  void perform(const Copy& copy);
  Cta& cta() const { return *current_->cta; }
  Warpgroup& warpgroup() { return cta().warpgroups[current_->thread / arch::kWarpgroupThreads]; }
  // The fibers of the warpgroup of the current one.
  Fiber* warpgroup_fibers() { return current_ - current_->thread % arch::kWarpgroupThreads; }
  void commit(Warpgroup& group, Fiber& fiber);
  void perform(Multiply& multiply);
  float element(uint32_t address, arch::Element type) const;
  void retire(Warpgroup& group, Fiber& fiber, int64_t end);

  Timing timing_;
  int cluster_ = 1, threads_ = 0;
  int shared_bytes_ = 0;
  std::vector<std::unique_ptr<Cta>> ctas_;  // of the cluster that runs
  std::vector<Fiber> fibers_;               // CTA after CTA
  Fiber* current_ = nullptr;
  jmp_buf scheduler_;
  std::string fault_;
  const std::function<void()>* entry_ = nullptr;
  Rendezvous cluster_barrier_;
  std::unordered_map<uint64_t*, BarrierState> barriers_;
  // To be performed: of tiles, in any order, and of threads, with the arrivals that follow them.
  std::vector<std::function<void()>> tile_copies_;
  std::deque<std::function<void()>> small_copies_;
};

// The machine that runs now.
Machine& machine();

}  // namespace bsk::emulation
