// What the CUDA engine is told from outside: where its files are and how kernels are to be
// compiled.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bsk::cuda {

// Where things lie. Python sets this when the package is imported; C++ programs may leave it as it
// is.
struct EnginePlaces {
  std::string driver_library;  // libcuda's path; "" = libcuda.so.1 by the loader's rules
  std::vector<std::string> nvrtc_libraries;  // full paths to try, in order, before the system's
  std::string kernel_dir;  // holds source/ (what NVRTC includes), source.digest and cubins/
  int64_t cache_limit_bytes = int64_t{256} << 20;  // of the disk cache
};

// The places, and of the library's settings (src/attention/settings.h) what concerns the engine.
struct EngineSettings : EnginePlaces {
  std::string cache_dir;      // the disk cache of compiled kernels
  bool debug_checks = false;  // device-side checks; every launch waits for its result
  bool line_info = false;     // source lines in the machine code, for profilers
};

// The settings in force. Kernels loaded after a change follow it; launches under way are not
// touched.
EngineSettings engine_settings();

// May be called at any time from any thread, but the driver is opened once per process: another
// `driver_library` after that throws Error(kValue).
void set_engine_places(const EnginePlaces& places);

// Grows whenever engine_settings may have changed; what is derived from them is stale when it
// differs.
uint64_t engine_settings_generation();

// Sentences for the user about what went wrong without failing a call: a cache that cannot be
// written, a damaged file. Each text is kept once per process; `take_engine_notices` returns those
// not yet taken.
void add_engine_notice(const std::string& text);
std::vector<std::string> take_engine_notices();
bool engine_notices_pending();  // one atomic load

}  // namespace bsk::cuda
