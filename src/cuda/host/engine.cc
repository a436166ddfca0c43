#include "src/cuda/host/engine.h"

#include <atomic>
#include <mutex>
#include <set>
#include <utility>

#include "bsk/error.h"
#include "src/attention/settings.h"
#include "src/cuda/host/driver.h"

// Where the build installs the kernels of the C++ package; Python's are beside its binary.
#ifndef BSK_DEFAULT_KERNEL_DIR
#define BSK_DEFAULT_KERNEL_DIR ""
#endif

namespace bsk::cuda {
namespace {

struct State {
  std::mutex mutex;
  EnginePlaces places{"", {}, BSK_DEFAULT_KERNEL_DIR};
  std::set<std::string> notices_seen;
  std::vector<std::string> notices;
};

// Never destroyed: threads may still launch while the process ends.
State& state() {
  static State* const instance = new State;
  return *instance;
}

std::atomic<uint64_t> g_places_generation{1};
std::atomic<bool> g_notices_pending{false};

}  // namespace

EngineSettings engine_settings() {
  EngineSettings result;
  {
    const std::lock_guard lock(state().mutex);
    static_cast<EnginePlaces&>(result) = state().places;
  }
  const std::shared_ptr<const Settings> library = settings();
  result.cache_dir = library->build_dir;
  result.debug_checks = library->debug_mode;
  result.line_info = library->enable_profiling;
  return result;
}

void set_engine_places(const EnginePlaces& places) {
  const std::lock_guard lock(state().mutex);
  if (places.driver_library != state().places.driver_library && driver_opened()) {
    fail(ErrorKind::kValue, "driver_library", "must be set before the driver is first used",
         "'" + places.driver_library + "' after '" + state().places.driver_library + "'",
         "Set it at the start of the process.");
  }
  state().places = places;
  g_places_generation.fetch_add(1, std::memory_order_release);
}

// Both terms only grow, so the sum changes when either does.
uint64_t engine_settings_generation() {
  return g_places_generation.load(std::memory_order_acquire) + settings_generation();
}

void add_engine_notice(const std::string& text) {
  const std::lock_guard lock(state().mutex);
  if (!state().notices_seen.insert(text).second) return;
  state().notices.push_back(text);
  g_notices_pending.store(true, std::memory_order_release);
}

std::vector<std::string> take_engine_notices() {
  const std::lock_guard lock(state().mutex);
  g_notices_pending.store(false, std::memory_order_release);
  return std::exchange(state().notices, {});
}

bool engine_notices_pending() { return g_notices_pending.load(std::memory_order_acquire); }

}  // namespace bsk::cuda
