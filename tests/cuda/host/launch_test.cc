#include "src/cuda/host/launch.h"

#include <cstring>
#include <thread>

#include "src/cuda/host/driver.h"
#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

using testing::EngineTest;
using testing::error_of;
using testing::fake;
using testing::vehicle_request;

struct Params {
  char bytes[64];
};

Params params(const char* text) {
  Params result{};
  std::strncpy(result.bytes, text, sizeof(result.bytes) - 1);
  return result;
}

// One kernel for all tests: compiled once.
KernelRequest shared_request() { return vehicle_request(416); }

class LaunchTest : public EngineTest {
 protected:
  static void launch(DeviceKernel& kernel, int32_t device, void* stream, const LaunchShape& shape,
                     const Params& params) {
    const ScopedDevice scoped(cuda_device(device));
    cuda::launch(kernel, device, stream, shape, params);
  }

  DeviceKernel kernel_{shared_request()};
  void* const stream_ = reinterpret_cast<void*>(uintptr_t{0x1234});
  LaunchShape shape_ = [] {
    LaunchShape shape;
    shape.grid[0] = 64;
    shape.grid[1] = 3;
    shape.threads = 416;
    return shape;
  }();
};

TEST_F(LaunchTest, the_driver_gets_shape_stream_and_parameters) {
  launch(kernel_, 0, stream_, shape_, params("0123456789abcdef"));
  ASSERT_EQ(fake().launches.size(), 1u);
  const FakeLaunch& seen = fake().launches[0];
  EXPECT_EQ(seen.kernel, "vehicle_t416");
  EXPECT_EQ(seen.stream, 0x1234u);
  EXPECT_EQ(seen.device, 0);
  EXPECT_EQ(seen.grid[0], 64u);
  EXPECT_EQ(seen.grid[1], 3u);
  EXPECT_EQ(seen.grid[2], 1u);
  EXPECT_EQ(seen.block[0], 416u);
  EXPECT_EQ(seen.block[1] * seen.block[2], 1u);
  EXPECT_EQ(seen.shared_bytes, 0u);
  EXPECT_EQ(seen.cluster[0], 0u);
  EXPECT_FALSE(seen.programmatic_dependent_launch);
  EXPECT_EQ(seen.params, "0123456789abcdef");
}

TEST_F(LaunchTest, attributes_are_passed_where_they_are_asked_for) {
  shape_.cluster[0] = 2;
  shape_.programmatic_dependent_launch = true;
  launch(kernel_, 0, stream_, shape_, params("x"));
  ASSERT_EQ(fake().launches.size(), 1u);
  EXPECT_EQ(fake().launches[0].cluster[0], 2u);
  EXPECT_EQ(fake().launches[0].cluster[1], 1u);
  EXPECT_TRUE(fake().launches[0].programmatic_dependent_launch);
}

TEST_F(LaunchTest, the_bench_can_keep_kernels_from_overlapping) {
  shape_.cluster[0] = 2;
  shape_.programmatic_dependent_launch = true;
  set_programmatic_dependent_launch(false);
  launch(kernel_, 0, stream_, shape_, params("x"));
  set_programmatic_dependent_launch(true);
  launch(kernel_, 0, stream_, shape_, params("x"));
  ASSERT_EQ(fake().launches.size(), 2u);
  EXPECT_FALSE(fake().launches[0].programmatic_dependent_launch);
  EXPECT_EQ(fake().launches[0].cluster[0], 2u);  // the other attribute stays
  EXPECT_TRUE(fake().launches[1].programmatic_dependent_launch);
}

TEST_F(LaunchTest, the_second_launch_calls_only_what_it_must) {
  shape_.shared_bytes = 200 << 10;
  launch(kernel_, 0, stream_, shape_, params("x"));
  const ScopedDevice current(cuda_device(0));
  fake().calls.clear();
  launch(kernel_, 0, stream_, shape_, params("x"));
  EXPECT_EQ(fake().calls, (std::vector<std::string>{"cuCtxGetCurrent", "cuLaunchKernelEx"}));
}

TEST_F(LaunchTest, shared_memory_is_allowed_once_per_device) {
  shape_.shared_bytes = 100 << 10;
  for (int repeat = 0; repeat < 3; ++repeat) {
    launch(kernel_, 0, stream_, shape_, params("x"));
    launch(kernel_, 1, stream_, shape_, params("x"));
  }
  EXPECT_EQ(fake().count("cuKernelSetAttribute"), 2);
  shape_.shared_bytes = 200 << 10;  // more than was allowed
  launch(kernel_, 0, stream_, shape_, params("x"));
  EXPECT_EQ(fake().count("cuKernelSetAttribute"), 3);
  EXPECT_EQ(fake().launches.size(), 7u);
}

TEST_F(LaunchTest, clusters_beyond_the_portable_size_are_allowed_once_per_device) {
  for (const uint32_t ctas : {8u, 16u, 16u}) {
    shape_.cluster[0] = ctas;
    launch(kernel_, 0, stream_, shape_, params("x"));
    EXPECT_EQ(fake().count("cuKernelSetAttribute"), ctas == 8 ? 0 : 1);
  }
  launch(kernel_, 1, stream_, shape_, params("x"));
  EXPECT_EQ(fake().count("cuKernelSetAttribute"), 2);
  EXPECT_EQ(fake().launches[3].cluster[0], 16u);
}

TEST_F(LaunchTest, devices_share_one_library_and_have_their_own_functions) {
  launch(kernel_, 0, stream_, shape_, params("x"));
  launch(kernel_, 1, stream_, shape_, params("x"));
  launch(kernel_, 0, stream_, shape_, params("x"));
  EXPECT_EQ(fake().count("cuLibraryLoadData"), 1);
  EXPECT_EQ(fake().count("cuKernelGetFunction"), 2);
  ASSERT_EQ(fake().launches.size(), 3u);
  EXPECT_EQ(fake().launches[1].device, 1);
}

TEST_F(LaunchTest, threads_on_two_devices_load_once_each) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([this, i] {
      for (int repeat = 0; repeat < 20; ++repeat)
        launch(kernel_, i % 2, stream_, shape_, params("x"));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fake().count("cuLibraryLoadData"), 1);
  EXPECT_EQ(fake().count("cuKernelGetFunction"), 2);
  EXPECT_EQ(fake().launches.size(), 320u);
  EXPECT_EQ(fake().count("cuCtxPushCurrent"), fake().count("cuCtxPopCurrent"));
}

// The first call of a process may come inside a capture: loading is allowed to this thread, and
// nothing waits.
TEST_F(LaunchTest, the_first_launch_inside_a_capture_loads_without_harming_it) {
  fake().capturing_stream = 0x1234;
  shape_.shared_bytes = 100 << 10;
  launch(kernel_, 0, stream_, shape_, params("x"));
  EXPECT_EQ(fake().launches.size(), 1u);
  EXPECT_FALSE(fake().capture_invalidated);
  EXPECT_EQ(fake().count("cuStreamSynchronize"), 0);
  // The thread's mode is what it was: what would harm the capture is refused again.
  EXPECT_NE(driver().stream_synchronize(nullptr), api::kSuccess);
}

TEST_F(LaunchTest, debug_mode_waits_and_reports_but_not_inside_a_capture) {
  use({{"debug_mode", "1"}});
  launch(kernel_, 0, stream_, shape_, params("x"));
  EXPECT_EQ(fake().count("cuStreamSynchronize"), 1);
  fake().failures_once["cuStreamSynchronize"] = 700;
  const std::string message =
      error_of(ErrorKind::kRuntime, [&] { launch(kernel_, 0, stream_, shape_, params("x")); });
  EXPECT_NE(message.find("CUDA_ERROR_ILLEGAL_ADDRESS"), std::string::npos) << message;
  EXPECT_NE(message.find("vehicle_t416"), std::string::npos) << message;
  fake().capturing_stream = 0x1234;
  launch(kernel_, 0, stream_, shape_, params("x"));
  EXPECT_FALSE(fake().capture_invalidated);
  fake().capturing_stream = 0;
  use({});
  const int waits = fake().count("cuStreamSynchronize");
  launch(kernel_, 0, stream_, shape_, params("x"));  // other settings, other machine code
  EXPECT_EQ(fake().count("cuStreamSynchronize"), waits);
  EXPECT_EQ(fake().count("cuLibraryLoadData"), 2);
}

TEST_F(LaunchTest, settings_that_change_nothing_load_nothing) {
  launch(kernel_, 0, stream_, shape_, params("x"));
  use({});
  launch(kernel_, 0, stream_, shape_, params("x"));
  EXPECT_EQ(fake().count("cuLibraryLoadData"), 1);
}

TEST_F(LaunchTest, settings_that_come_back_find_what_was_loaded) {
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (const char* debug_mode : {"0", "1"}) {
      use({{"debug_mode", debug_mode}});
      launch(kernel_, 0, stream_, shape_, params("x"));
    }
  }
  EXPECT_EQ(fake().count("cuKernelGetFunction"), 2);
}

TEST_F(LaunchTest, errors_name_kernel_and_shape) {
  launch(kernel_, 0, stream_, shape_, params("x"));
  fake().failures_once["cuLaunchKernelEx"] = 1;
  const std::string message =
      error_of(ErrorKind::kRuntime, [&] { launch(kernel_, 0, stream_, shape_, params("x")); });
  EXPECT_NE(message.find("cuLaunchKernelEx: CUDA_ERROR_INVALID_VALUE"), std::string::npos)
      << message;
  EXPECT_NE(message.find("vehicle_t416 with grid 64 x 3 x 1, 416 threads"), std::string::npos)
      << message;
}

TEST_F(LaunchTest, a_failed_loading_is_tried_again) {
  for (const char* symbol : {"cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelGetFunction"}) {
    DeviceKernel kernel(shared_request());
    fake().failures[symbol] = 2;
    const std::string message =
        error_of(ErrorKind::kRuntime, [&] { launch(kernel, 0, stream_, shape_, params("x")); });
    EXPECT_NE(message.find(symbol), std::string::npos) << message;
    fake().failures.clear();
    launch(kernel, 0, stream_, shape_, params("x"));
  }
  EXPECT_EQ(fake().count("cuCtxPushCurrent"), fake().count("cuCtxPopCurrent"));
}

TEST_F(LaunchTest, too_much_shared_memory_says_how_much_there_is) {
  shape_.shared_bytes = 300 << 10;
  const std::string message =
      error_of(ErrorKind::kRuntime, [&] { launch(kernel_, 0, stream_, shape_, params("x")); });
  EXPECT_NE(message.find("307200"), std::string::npos) << message;
  EXPECT_NE(message.find("Fake GPU 0 has 232448"), std::string::npos) << message;
}

// The driver answers all of these alike.
TEST_F(LaunchTest, impossible_shapes_are_told_apart) {
  const auto refused = [&](void (*breakage)(LaunchShape&), const std::string& says) {
    LaunchShape shape = shape_;
    breakage(shape);
    const std::string message =
        error_of(ErrorKind::kValue, [&] { launch(kernel_, 0, stream_, shape, params("x")); });
    EXPECT_NE(message.find(says), std::string::npos) << message;
  };
  refused([](LaunchShape& s) { s.threads = 0; }, "1 to 1024 threads");
  refused([](LaunchShape& s) { s.threads = 1025; }, "1 to 1024 threads");
  refused([](LaunchShape& s) { s.grid[1] = 0; }, "1 to 65535");
  refused([](LaunchShape& s) { s.grid[2] = 65536; }, "1 to 65535");
  refused([](LaunchShape& s) { s.cluster[0] = 3; }, "whole number of clusters");
  refused([](LaunchShape& s) { s.cluster[0] = 32; }, "at most 16 CTAs");
  refused([](LaunchShape& s) { s.shared_bytes = -1; }, "not negative");
  EXPECT_TRUE(fake().launches.empty());
}

// A cubin from a newer compiler than the driver knows, say: the compiler beside the driver makes
// another.
TEST_F(LaunchTest, stored_code_that_does_not_load_is_compiled_anew) {
  const testing::TemporaryDir package;
  std::filesystem::create_directory_symlink(std::string(VEHICLE_DIR) + "/source",
                                            package.path() + "/source");
  std::filesystem::copy_file(std::string(VEHICLE_DIR) + "/source.digest",
                             package.path() + "/source.digest");
  EnginePlaces places = testing::test_places();
  places.kernel_dir = package.path();
  set_engine_places(places);
  const KernelRequest request = vehicle_request(448);
  embed_kernel(request, package.path() + "/cubins");
  DeviceKernel kernel(request);
  fake().failures_once["cuLibraryLoadData"] = 209;
  launch(kernel, 0, stream_, shape_, params("x"));
  EXPECT_EQ(fake().launches.size(), 1u);
  EXPECT_EQ(fake().count("cuLibraryLoadData"), 2);
  const std::vector<std::string> notices = take_engine_notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("does not load with this driver"), std::string::npos);

  // What an earlier kernel did, or a lack of memory, is not the stored code's fault.
  for (const int sticky : {2, 700}) {
    DeviceKernel another(vehicle_request(464));
    embed_kernel(another.request(), package.path() + "/cubins");
    fake().failures_once["cuLibraryLoadData"] = sticky;
    EXPECT_NE(
        error_of(ErrorKind::kRuntime, [&] { launch(another, 0, stream_, shape_, params("x")); })
            .find("cuLibraryLoadData"),
        std::string::npos);
    EXPECT_TRUE(take_engine_notices().empty());
  }
}

TEST_F(LaunchTest, the_table_keeps_one_kernel_per_request) {
  DeviceKernel& first = device_kernel(vehicle_request(480));
  EXPECT_EQ(&device_kernel(vehicle_request(480)), &first);
  EXPECT_NE(&device_kernel(vehicle_request(512)), &first);
}

}  // namespace
}  // namespace bsk::cuda
