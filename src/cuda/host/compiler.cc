#include "src/cuda/host/compiler.h"

#include <dlfcn.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <sstream>

#include "bsk/error.h"
#include "src/cuda/host/engine.h"

namespace bsk::cuda {
namespace {

// NVRTC's C interface ("NVRTC" reference manual), as far as it is used.
using Program = struct ProgramTag*;
using Result = int;  // nvrtcResult; 0 = success
constexpr Result kSuccess = 0;

struct Nvrtc {
  Result (*version)(int* major, int* minor) = nullptr;
  const char* (*get_error_string)(Result result) = nullptr;
  Result (*create_program)(Program* program, const char* source, const char* name, int header_count,
                           const char* const* headers, const char* const* include_names) = nullptr;
  Result (*destroy_program)(Program* program) = nullptr;
  Result (*compile_program)(Program program, int option_count,
                            const char* const* options) = nullptr;
  Result (*get_log_size)(Program program, size_t* size) = nullptr;
  Result (*get_log)(Program program, char* log) = nullptr;
  Result (*get_cubin_size)(Program program, size_t* size) = nullptr;
  Result (*get_cubin)(Program program, char* cubin) = nullptr;
  std::string path;
  int major = 0;
  int minor = 0;
};

// The oldest NVRTC with all of sm_90a's instructions that CUTLASS's wrappers use.
constexpr int kOldestMajor = 12;
constexpr int kOldestMinor = 3;

constexpr const char* kSonames[] = {"libnvrtc.so.13", "libnvrtc.so.12"};

std::mutex g_mutex;
Nvrtc* g_nvrtc = nullptr;  // set once under g_mutex, never freed

std::string version_text(const Nvrtc& nvrtc) {
  return std::to_string(nvrtc.major) + "." + std::to_string(nvrtc.minor);
}

// Fills `nvrtc` from an open library; returns why it cannot be used, or "".
std::string adopt(void* library, const std::string& asked_for, Nvrtc& nvrtc) {
  nvrtc.path = asked_for;
  std::string missing;
  const auto find = [&](const char* symbol, auto& member) {
    member = reinterpret_cast<std::remove_reference_t<decltype(member)>>(dlsym(library, symbol));
    if (member == nullptr) missing = symbol;
  };
  find("nvrtcVersion", nvrtc.version);
  find("nvrtcGetErrorString", nvrtc.get_error_string);
  find("nvrtcCreateProgram", nvrtc.create_program);
  find("nvrtcDestroyProgram", nvrtc.destroy_program);
  find("nvrtcCompileProgram", nvrtc.compile_program);
  find("nvrtcGetProgramLogSize", nvrtc.get_log_size);
  find("nvrtcGetProgramLog", nvrtc.get_log);
  find("nvrtcGetCUBINSize", nvrtc.get_cubin_size);
  find("nvrtcGetCUBIN", nvrtc.get_cubin);
  if (!missing.empty()) return asked_for + " lacks " + missing;
  Dl_info where{};
  if (dladdr(reinterpret_cast<void*>(nvrtc.version), &where) != 0 && where.dli_fname != nullptr) {
    nvrtc.path = where.dli_fname;
  }
  if (nvrtc.version(&nvrtc.major, &nvrtc.minor) != kSuccess)
    return nvrtc.path + " does not tell its version";
  if (nvrtc.major < kOldestMajor || (nvrtc.major == kOldestMajor && nvrtc.minor < kOldestMinor)) {
    return nvrtc.path + " is version " + version_text(nvrtc) + ", older than 12.3";
  }
  // NVRTC opens this companion by its bare name when it first compiles. From a folder that the
  // loader does not search (a package of PyPI) it is found only if it is open by then. Where there
  // is none at this path, the loader decides.
  const size_t slash = nvrtc.path.rfind('/');
  if (slash != std::string::npos) {
    const std::string builtins =
        nvrtc.path.substr(0, slash + 1) + "libnvrtc-builtins.so." + version_text(nvrtc);
    static_cast<void>(dlopen(builtins.c_str(), RTLD_NOW | RTLD_LOCAL));
  }
  return "";
}

// Opens the first NVRTC that can be used; called under g_mutex. `why` gets the reasons where there
// is none.
Nvrtc* opened_nvrtc(std::string* why) {
  if (g_nvrtc != nullptr) return g_nvrtc;
  auto nvrtc = std::make_unique<Nvrtc>();
  std::string reasons;
  const auto attempt = [&](const std::string& name, int extra_flags) {
    void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | extra_flags);
    std::string reason;
    if (library == nullptr) {
      if (extra_flags != 0) return false;  // not loaded yet: nothing to report
      const char* const text = dlerror();
      reason = text != nullptr ? text : name + " cannot be opened";
    } else {
      reason = adopt(library, name, *nvrtc);
      if (reason.empty()) return true;
      dlclose(library);
    }
    reasons += (reasons.empty() ? "" : "; ") + reason;
    return false;
  };
  const auto search = [&] {
    for (const char* name : kSonames) {
      if (attempt(name, RTLD_NOLOAD)) return true;
    }
    for (const std::string& path : engine_settings().nvrtc_libraries) {
      if (attempt(path, 0)) return true;
    }
    for (const char* name : kSonames) {
      if (attempt(name, 0)) return true;
    }
    return false;
  };
  if (search()) {
    g_nvrtc = nvrtc.release();
  } else if (why != nullptr) {
    *why = "No CUDA runtime compiler (NVRTC 12.3 or newer): " + reasons +
           ". Install it with `pip install nvidia-cuda-nvrtc`.";
  }
  return g_nvrtc;
}

// `count` lines of a log, from its first error on: warnings may come before it by the dozen.
std::string first_lines(const std::string& log, int count) {
  const size_t error = log.find(" error");
  const size_t line_start = error == std::string::npos ? std::string::npos : log.rfind('\n', error);
  std::istringstream stream(line_start == std::string::npos ? log : log.substr(line_start + 1));
  std::string result;
  std::string line;
  for (int i = 0; i < count && std::getline(stream, line);) {
    if (line.empty()) continue;
    result += "\n  " + line;
    ++i;
  }
  return result;
}

struct ProgramOwner {
  const Nvrtc& nvrtc;
  Program program = nullptr;
  ~ProgramOwner() {
    if (program != nullptr) static_cast<void>(nvrtc.destroy_program(&program));
  }
};

void check_nvrtc(const Nvrtc& nvrtc, Result result, const char* call, const std::string& name) {
  if (result == kSuccess) return;
  throw Error(ErrorKind::kRuntime, std::string(call) + ": " + nvrtc.get_error_string(result) +
                                       ". Compiling " + name + " with " + nvrtc.path + ".");
}

}  // namespace

CompilerStatus compiler_status() {
  CompilerStatus status;
  const std::lock_guard lock(g_mutex);
  const Nvrtc* const nvrtc = opened_nvrtc(&status.sentence);
  if (nvrtc == nullptr) return status;
  status.available = true;
  status.path = nvrtc->path;
  status.version = version_text(*nvrtc);
  status.sentence = "NVRTC " + status.version + " at " + status.path;
  return status;
}

std::vector<std::string> CompileOptions::arguments() const {
  std::vector<std::string> arguments = {
      "--gpu-architecture=sm_" + architecture,
      "--std=c++20",
      // Headers shared with the host, and CUTLASS, lack __device__; NVRTC takes no host functions.
      "--device-as-default-execution-space",
      // Headers come from include_dirs alone, not from the process's working directory.
      "--no-source-include",
      "--ptxas-options=--verbose",
      // CUDA 12's headers use vector types that CUDA 13 calls deprecated.
      "--diag-suppress=1444",
  };
  if (line_info) arguments.emplace_back("--generate-line-info");
  for (const std::string& define : defines) arguments.push_back("--define-macro=" + define);
  for (const std::string& dir : include_dirs) arguments.push_back("--include-path=" + dir);
  return arguments;
}

CompileResult compile(const std::string& source, const std::string& name,
                      const CompileOptions& options) {
  const Nvrtc* nvrtc = nullptr;
  {
    std::string why;
    const std::lock_guard lock(g_mutex);
    nvrtc = opened_nvrtc(&why);
    if (nvrtc == nullptr) throw Error(ErrorKind::kRuntime, "Cannot compile " + name + ". " + why);
  }
  const auto start = std::chrono::steady_clock::now();
  const std::vector<std::string> arguments = options.arguments();
  std::vector<const char*> argument_pointers;
  for (const std::string& argument : arguments) argument_pointers.push_back(argument.c_str());

  ProgramOwner owner{*nvrtc};
  check_nvrtc(
      *nvrtc,
      nvrtc->create_program(&owner.program, source.c_str(), name.c_str(), 0, nullptr, nullptr),
      "nvrtcCreateProgram", name);
  const Result result = nvrtc->compile_program(
      owner.program, static_cast<int>(argument_pointers.size()), argument_pointers.data());
  CompileResult compiled;
  size_t size = 0;
  // Sizes count the terminating zero.
  if (nvrtc->get_log_size(owner.program, &size) == kSuccess && size > 1) {
    compiled.log.resize(size);
    if (nvrtc->get_log(owner.program, compiled.log.data()) != kSuccess) compiled.log.clear();
    while (!compiled.log.empty() && compiled.log.back() == '\0') compiled.log.pop_back();
  }
  if (result != kSuccess) {
    throw Error(ErrorKind::kRuntime,
                std::string("nvrtcCompileProgram: ") + nvrtc->get_error_string(result) +
                    ". Compiling " + name + " for sm_" + options.architecture + " with NVRTC " +
                    version_text(*nvrtc) + " (" + nvrtc->path + ")" +
                    (compiled.log.empty() ? "" : ":" + first_lines(compiled.log, 12)));
  }
  check_nvrtc(*nvrtc, nvrtc->get_cubin_size(owner.program, &size), "nvrtcGetCUBINSize", name);
  compiled.cubin.resize(size);
  check_nvrtc(*nvrtc, nvrtc->get_cubin(owner.program, compiled.cubin.data()), "nvrtcGetCUBIN",
              name);
  compiled.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return compiled;
}

}  // namespace bsk::cuda
