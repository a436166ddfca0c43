// What the engine's tests share: the fake driver in the driver's place, folders of their own,
// processes of their own.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "bsk/error.h"
#include "src/attention/settings.h"
#include "src/cuda/host/engine.h"
#include "src/cuda/host/kernel_library.h"
#include "tests/cuda/host/fake_libcuda.h"

namespace bsk::cuda::testing {

inline FakeCuda& fake() {
  static FakeCuda* const instance = [] {
    void* const library = dlopen(FAKE_LIBCUDA, RTLD_NOW);
    if (library == nullptr) throw std::runtime_error(dlerror());
    return reinterpret_cast<FakeCuda* (*)()>(dlsym(library, "fake_cuda"))();
  }();
  return *instance;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A folder that is gone with the test.
class TemporaryDir {
 public:
  TemporaryDir() {
    std::string name = (std::filesystem::temp_directory_path() / "bsk-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TemporaryDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline EnginePlaces test_places() {
  EnginePlaces places;
  places.driver_library = FAKE_LIBCUDA;
  places.kernel_dir = VEHICLE_DIR;
  std::istringstream libraries(NVRTC_LIBRARIES);
  for (std::string path; std::getline(libraries, path, ':');)
    places.nvrtc_libraries.push_back(path);
  return places;
}

// The engine over the fake driver, with an empty disk cache. What the fake was told lasts for one
// test.
class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::lock_guard lock(fake().mutex);
    fake().calls.clear();
    fake().launches.clear();
    fake().tensor_maps.clear();
    fake().failures.clear();
    fake().failures_once.clear();
    fake().maps_need_context = false;
    fake().capturing_stream = 0;
    fake().capture_invalidated = false;
    use({});
    set_engine_places(test_places());
    static_cast<void>(take_engine_notices());
  }

  // The library's options, with the test's own cache folder.
  void use(std::map<std::string, std::string> options) {
    options["build_dir"] = cache_.path();
    set_settings(options);
  }

  const std::string& cache_dir() const { return cache_.path(); }

 private:
  TemporaryDir cache_;
};

// A configuration of the tests' small kernel that no other test uses, as what is found stays in the
// process's memory.
inline KernelRequest vehicle_request(int threads) {
  return {"vehicle_t" + std::to_string(threads), "src/cuda/vehicle/scale.cuh", "vehicle::scale",
          "vehicle::Config<" + std::to_string(threads) + ">", "90a"};
}

// A kernel that includes what the real ones do: CUTLASS and CUDA's C++ library.
inline KernelRequest cutlass_request(int threads) {
  return {"cutlass_t" + std::to_string(threads), "src/cuda/vehicle/scale_with_cutlass.cuh",
          "vehicle::scale_with_cutlass", "vehicle::Config<" + std::to_string(threads) + ">", "90a"};
}

// The message of the Error that `body` throws, after checking its kind; "" and a failure where it
// throws none.
template <class Body>
std::string error_of(ErrorKind kind, Body body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

}  // namespace bsk::cuda::testing
