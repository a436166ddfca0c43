// What the CUDA engine is told from outside: where its files are and how kernels are to be
// compiled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace bsk::cuda {

struct EngineSettings {
  std::string driver_library;  // libcuda's path; "" = libcuda.so.1 by the loader's rules
  std::vector<std::string> nvrtc_libraries;  // full paths to try, in order, before the system's
  std::string kernel_dir;  // holds source/ (headers for NVRTC), source.digest and cubins/; "" =
                           // none of them
  std::string cache_dir;   // disk cache of compiled kernels; "" = none
  int64_t cache_limit_bytes = int64_t{256} << 20;
  bool debug_checks = false;  // device-side checks; every launch waits for its result
  bool line_info = false;     // source lines in the machine code, for profilers
};

// The settings in force. `set_engine_settings` may be called at any time from any thread: kernels
// loaded after it follow it, launches under way are not touched. The driver library is opened once
// per process: a different `driver_library` after that throws Error(kValue).
std::shared_ptr<const EngineSettings> engine_settings();
void set_engine_settings(const EngineSettings& settings);

// EngineSettings::debug_checks without the cost of the snapshot: every launch asks.
bool engine_debug_checks();

// Grows with every `set_engine_settings`; what is derived from the settings is stale when it
// differs.
uint64_t engine_settings_generation();

// Sentences for the user about what went wrong without failing a call: a cache that cannot be
// written, a damaged file. Each text is kept once per process; `take_engine_notices` returns those
// not yet taken.
void add_engine_notice(const std::string& text);
std::vector<std::string> take_engine_notices();

}  // namespace bsk::cuda
