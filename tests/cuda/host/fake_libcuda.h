// A libcuda without a GPU: what the engine's tests load in its place. It keeps the driver's rules
// that the engine relies on (contexts, graph capture, shared memory limits), records every call,
// and fails where it is told to. It proves the order and the arguments of calls; it proves nothing
// about a GPU.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

struct FakeLaunch {
  uintptr_t stream;
  unsigned grid[3], block[3];
  unsigned shared_bytes;
  unsigned cluster[3];  // zeros = no such attribute
  bool programmatic_dependent_launch;
  int device;
  std::string kernel;
  std::string params;  // the first FakeCuda::params_bytes of the one parameter
};

struct FakeTensorMap {
  int data_type, rank, interleave, swizzle, l2_promotion, fill;
  uintptr_t address;
  std::vector<uint64_t> dims, stride_bytes;
  std::vector<uint32_t> box, element_strides;
};

struct FakeCuda {
  std::mutex mutex;
  int devices = 2;
  int driver_version = 13000;
  std::vector<std::string> calls;  // names, in order
  std::vector<FakeLaunch> launches;
  size_t params_bytes = 16;  // what it keeps of a launch's parameter
  std::vector<FakeTensorMap> tensor_maps;
  std::map<std::string, int> failures;       // symbol -> CUresult of every call
  std::map<std::string, int> failures_once;  // symbol -> CUresult of the next call
  bool maps_need_context = false;    // the functions of tensor maps fail on a thread that has none
  std::vector<std::string> missing;  // symbols that this driver is too old for
  uintptr_t capturing_stream = 0;    // in global mode; 0 = none
  bool capture_invalidated = false;
  int unsafe_calls_refused = 0;

  int count(const std::string& symbol) {
    const std::lock_guard lock(mutex);
    int n = 0;
    for (const std::string& call : calls) n += call == symbol;
    return n;
  }
};

extern "C" FakeCuda* fake_cuda();
