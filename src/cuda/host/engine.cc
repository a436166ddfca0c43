#include "src/cuda/host/engine.h"

#include <atomic>
#include <mutex>
#include <set>
#include <utility>

#include "bsk/error.h"
#include "src/cuda/host/driver.h"

namespace bsk::cuda {
namespace {

struct State {
  std::mutex mutex;
  std::shared_ptr<const EngineSettings> settings = std::make_shared<EngineSettings>();
  std::set<std::string> notices_seen;
  std::vector<std::string> notices;
};

// Never destroyed: threads may still launch while the process ends.
State& state() {
  static State* const instance = new State;
  return *instance;
}

std::atomic<uint64_t> g_generation{1};
std::atomic<bool> g_debug_checks{false};

}  // namespace

std::shared_ptr<const EngineSettings> engine_settings() {
  const std::lock_guard lock(state().mutex);
  return state().settings;
}

void set_engine_settings(const EngineSettings& settings) {
  const std::lock_guard lock(state().mutex);
  if (settings.driver_library != state().settings->driver_library && driver_opened()) {
    fail(ErrorKind::kValue, "driver_library", "must be set before the driver is first used",
         "'" + settings.driver_library + "' after '" + state().settings->driver_library + "'",
         "Set it at the start of the process.");
  }
  state().settings = std::make_shared<EngineSettings>(settings);
  g_debug_checks.store(settings.debug_checks, std::memory_order_relaxed);
  g_generation.fetch_add(1, std::memory_order_release);
}

bool engine_debug_checks() { return g_debug_checks.load(std::memory_order_relaxed); }

uint64_t engine_settings_generation() { return g_generation.load(std::memory_order_acquire); }

void add_engine_notice(const std::string& text) {
  const std::lock_guard lock(state().mutex);
  if (state().notices_seen.insert(text).second) state().notices.push_back(text);
}

std::vector<std::string> take_engine_notices() {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().notices, {});
}

}  // namespace bsk::cuda
