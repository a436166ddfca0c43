#include "src/attention/settings.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdlib>
#include <mutex>

#include "bsk/attention.h"
#include "bsk/error.h"
#include "src/attention/kernel.h"

namespace bsk {
namespace {

enum class OptionKind { kBoolean, kChoice, kPath };

struct Option {
  const char* name;
  const char* environment_variable;
  OptionKind kind;
  std::vector<std::string> choices;  // kChoice only; "" is allowed where it is listed
  std::string default_value;
};

std::vector<std::string> kernel_names() {
  std::vector<std::string> names = {""};
  for (const Kernel& kernel : kernels()) names.emplace_back(kernel.name);
  return names;
}

std::string default_build_dir() {
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr && *home != '\0' ? home : "/tmp") +
         "/.cache/blackwell_sparsek";
}

std::vector<Option> options() {
  return {
      {"cuda_arch", "BSK_CUDA_ARCH", OptionKind::kChoice, {"", "90a", "100a"}, ""},
      {"debug_mode", "BSK_DEBUG", OptionKind::kBoolean, {}, "0"},
      {"enable_profiling", "BSK_PROFILE", OptionKind::kBoolean, {}, "0"},
      {"build_dir", "BSK_BUILD_DIR", OptionKind::kPath, {}, default_build_dir()},
      {"fallback", "BSK_FALLBACK", OptionKind::kChoice, {"error", "sdpa"}, "error"},
      {"kernel", "BSK_KERNEL", OptionKind::kChoice, kernel_names(), ""},
  };
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string listed(const std::vector<std::string>& values) {
  std::string text;
  for (const std::string& value : values) {
    if (value.empty()) continue;
    text += (text.empty() ? "'" : ", '") + value + "'";
  }
  return text;
}

// The value in its one spelling, or an Error that names `source` (the option or the variable it
// came from).
std::string checked(const Option& option, const std::string& value, const std::string& source) {
  switch (option.kind) {
    case OptionKind::kBoolean: {
      const std::string text = lower(value);
      if (text == "1" || text == "true" || text == "yes" || text == "on") return "1";
      if (text == "0" || text == "false" || text == "no" || text == "off") return "0";
      fail(ErrorKind::kValue, source, "must be a boolean", "'" + value + "'", "Use '1' or '0'.");
    }
    case OptionKind::kChoice: {
      if (std::find(option.choices.begin(), option.choices.end(), value) != option.choices.end())
        return value;
      fail(ErrorKind::kValue, source, "must be one of " + listed(option.choices), "'" + value + "'",
           option.choices.front().empty() ? "Leave it unset to let the library choose."
                                          : "Use one of the values listed.");
    }
    case OptionKind::kPath: {
      if (value.find('\0') != std::string::npos || value.empty()) {
        fail(ErrorKind::kValue, source, "must be a directory's path", "'" + value + "'",
             "Give a path that can be created and written to.");
      }
      if (value == "~" || value.rfind("~/", 0) == 0) {
        const char* home = std::getenv("HOME");
        if (home != nullptr && *home != '\0') return home + value.substr(1);
      }
      return value;
    }
  }
  fail(ErrorKind::kRuntime, source, "has a kind that is handled", "another",
       "Report this as a bug.");
}

// `cuda_arch` is for those who compile ahead of calls (`bsk compile`).
Settings from_resolved(const std::vector<ResolvedOption>& resolved) {
  Settings settings;
  for (const ResolvedOption& option : resolved) {
    if (option.name == "debug_mode") settings.debug_mode = option.value == "1";
    if (option.name == "enable_profiling") settings.enable_profiling = option.value == "1";
    if (option.name == "build_dir") settings.build_dir = option.value;
    if (option.name == "fallback") settings.fallback = option.value;
    if (option.name == "kernel") settings.kernel = option.value;
  }
  return settings;
}

struct State {
  std::mutex mutex;
  std::vector<ResolvedOption> resolved;
  std::atomic<std::shared_ptr<const Settings>> current;
  std::atomic<uint64_t> generation{0};
};

State& state() {
  static State* instance = new State;  // never destroyed: calls may outlive static destruction
  return *instance;
}

void install(const std::map<std::string, std::string>& explicit_values) {
  std::vector<ResolvedOption> resolved = resolve_options(explicit_values);
  state().current.store(std::make_shared<const Settings>(from_resolved(resolved)));
  state().resolved = std::move(resolved);
  state().generation.fetch_add(1, std::memory_order_release);
}

}  // namespace

std::vector<ResolvedOption> resolve_options(
    const std::map<std::string, std::string>& explicit_values) {
  const std::vector<Option> known = options();
  for (const auto& [name, value] : explicit_values) {
    const bool found =
        std::any_of(known.begin(), known.end(), [&](const Option& o) { return name == o.name; });
    if (!found) {
      std::vector<std::string> names;
      for (const Option& option : known) names.emplace_back(option.name);
      fail(ErrorKind::kValue, "Config", "must have options among " + listed(names),
           "'" + name + "'", "Correct the option's name.");
    }
  }
  std::vector<ResolvedOption> resolved;
  for (const Option& option : known) {
    ResolvedOption entry{option.name, option.environment_variable, option.default_value, "default"};
    const char* environment = std::getenv(option.environment_variable);
    const auto explicit_value = explicit_values.find(option.name);
    if (explicit_value != explicit_values.end()) {
      entry.value = checked(option, explicit_value->second, std::string("Config.") + option.name);
      entry.origin = "config";
    } else if (environment != nullptr && *environment != '\0') {
      entry.value = checked(option, environment, option.environment_variable);
      entry.origin = "environment";
    }
    resolved.push_back(std::move(entry));
  }
  return resolved;
}

std::shared_ptr<const Settings> settings() {
  std::shared_ptr<const Settings> current = state().current.load(std::memory_order_acquire);
  if (current == nullptr) {
    std::lock_guard<std::mutex> lock(state().mutex);
    current = state().current.load();
    if (current == nullptr) {
      install({});
      current = state().current.load();
    }
  }
  return current;
}

void set_settings(const std::map<std::string, std::string>& explicit_values) {
  std::lock_guard<std::mutex> lock(state().mutex);
  install(explicit_values);
}

std::vector<ResolvedOption> options_in_force() {
  settings();
  std::lock_guard<std::mutex> lock(state().mutex);
  return state().resolved;
}

uint64_t settings_generation() { return state().generation.load(std::memory_order_acquire); }

int32_t threads_from_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");  // "4" or "4,2": the first level counts
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long threads = std::strtol(text, &end, 10);
  return end != text && threads > 0 && threads < 4096 ? static_cast<int32_t>(threads) : 0;
}

}  // namespace bsk
