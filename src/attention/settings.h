// Every option of the library and every environment variable it reads, in one place.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace bsk {

struct Settings {
  bool debug_mode = false;  // BSK_DEBUG: check block lists' contents, synchronous device errors
  bool enable_profiling =
      false;              // BSK_PROFILE: a named profiler range per call, line info in kernels
  std::string build_dir;  // BSK_BUILD_DIR: the kernel cache
  std::string fallback;   // BSK_FALLBACK: "error" or "sdpa" where no kernel takes a problem
  std::string kernel;     // BSK_KERNEL: take this kernel and no other; "" = choose
};

// One option as it is in force: its value as text and where that came from.
struct ResolvedOption {
  std::string name;
  std::string environment_variable;
  std::string value;   // "" = not set
  std::string origin;  // "config", "environment" or "default"
};

// Explicit values win over the environment, which wins over the defaults. Throws Error(kValue) that
// names the option, the value and the allowed ones.
std::vector<ResolvedOption> resolve_options(
    const std::map<std::string, std::string>& explicit_values);

// The settings in force. The environment is read at the first call and again at each
// `set_settings`.
std::shared_ptr<const Settings> settings();
void set_settings(const std::map<std::string, std::string>& explicit_values);

// Grows with every change of the settings in force; what is derived from them is stale when it
// differs.
uint64_t settings_generation();

std::vector<ResolvedOption> options_in_force();

// OMP_NUM_THREADS, or 0 where it is not set to a positive number.
int32_t threads_from_environment();

}  // namespace bsk
