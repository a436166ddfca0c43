// NVRTC, opened at run time: CUDA C++ source to machine code, with no GPU and no toolkit.
#pragma once

#include <string>
#include <vector>

namespace bsk::cuda {

struct CompilerStatus {
  bool available = false;
  std::string sentence;  // what is here, or why there is no compiler and what to do
  std::string path;      // the library in use
  std::string version;   // "13.0"
};

// Looks, in this order, at an NVRTC that this process has loaded already (torch's), at the
// settings' paths and at the system's. Never throws. Where it found none, a later call looks again.
CompilerStatus compiler_status();

struct CompileOptions {
  std::string architecture;  // "90a"
  std::vector<std::string> include_dirs;
  std::vector<std::string> defines;  // "NAME=value"
  bool line_info = false;

  // The command line, in the order that NVRTC gets it.
  std::vector<std::string> arguments() const;
};

struct CompileResult {
  std::string cubin;
  std::string log;  // warnings and ptxas' report
  double seconds = 0;
};

// Compiles one translation unit; `name` stands for its file in messages. Throws Error(kRuntime)
// with the log's first lines where the source does not compile, and with compiler_status().sentence
// where there is no compiler.
CompileResult compile(const std::string& source, const std::string& name,
                      const CompileOptions& options);

}  // namespace bsk::cuda
