#include "src/cuda/host/driver.h"

#include <thread>

#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

using testing::EngineTest;
using testing::error_of;
using testing::fake;

class DriverTest : public EngineTest {};

// The driver is opened once per process, so what happens at the opening is tested in processes of
// their own.
class DriverOpeningTest : public EngineTest {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EngineTest::SetUp();
  }
  // Ends the process with the status's sentence on stderr.
  [[noreturn]] static void tell_status(const std::string& library) {
    EnginePlaces places;
    places.driver_library = library;
    set_engine_places(places);
    const DriverStatus status = driver_status();
    std::fprintf(stderr, "%s", status.sentence.c_str());
    std::_Exit(status.available ? 0 : 3);
  }
};

TEST_F(DriverOpeningTest, absence_is_a_sentence) {
  EXPECT_EXIT(tell_status("/nowhere/libcuda.so.1"), ::testing::ExitedWithCode(3),
              "No NVIDIA driver: /nowhere/libcuda.so.1 cannot be opened .*--gpus all");
}

TEST_F(DriverOpeningTest, presence_is_a_sentence) {
  EXPECT_EXIT(tell_status(FAKE_LIBCUDA), ::testing::ExitedWithCode(0), "CUDA 13.0, 2 devices");
}

TEST_F(DriverOpeningTest, no_gpu_is_a_sentence) {
  EXPECT_EXIT(
      {
        fake().failures["cuInit"] = 100;
        tell_status(FAKE_LIBCUDA);
      },
      ::testing::ExitedWithCode(3), "sees no GPU.*CUDA_VISIBLE_DEVICES");
}

TEST_F(DriverOpeningTest, failing_init_names_the_error) {
  EXPECT_EXIT(
      {
        fake().failures["cuInit"] = 2;
        tell_status(FAKE_LIBCUDA);
      },
      ::testing::ExitedWithCode(3),
      "does not start: cuInit gave CUDA_ERROR_OUT_OF_MEMORY .out of memory.");
}

TEST_F(DriverOpeningTest, old_driver_names_what_it_lacks) {
  EXPECT_EXIT(
      {
        fake().missing.push_back("cuLaunchKernelEx");
        fake().missing.push_back("cuTensorMapEncodeTiled");
        tell_status(FAKE_LIBCUDA);
      },
      ::testing::ExitedWithCode(3),
      "lacks cuLaunchKernelEx, cuTensorMapEncodeTiled, which CUDA 12.0 has");
}

TEST_F(DriverOpeningTest, a_library_that_is_no_driver_is_too_old) {
  EXPECT_EXIT(tell_status("libdl.so.2"), ::testing::ExitedWithCode(3), "older than CUDA 12.0");
}

TEST_F(DriverOpeningTest, an_absent_driver_is_looked_for_again) {
  EXPECT_EXIT(
      {
        EnginePlaces places;
        places.driver_library = "/nowhere/libcuda.so.1";
        set_engine_places(places);
        if (driver_status().available) std::_Exit(4);
        tell_status(FAKE_LIBCUDA);
      },
      ::testing::ExitedWithCode(0), "2 devices");
}

TEST_F(DriverTest, another_library_after_the_opening_is_refused) {
  ASSERT_TRUE(driver_status().available);
  EnginePlaces places = testing::test_places();
  places.driver_library = "/elsewhere/libcuda.so.1";
  const std::string message = error_of(ErrorKind::kValue, [&] { set_engine_places(places); });
  EXPECT_NE(message.find("driver_library"), std::string::npos) << message;
  EXPECT_EQ(engine_settings().driver_library, FAKE_LIBCUDA);
}

TEST_F(DriverTest, properties_are_asked_for_once) {
  const CudaDevice& first = cuda_device(1);
  EXPECT_EQ(first.index, 1);
  EXPECT_EQ(first.properties.name, "Fake GPU 1");
  EXPECT_EQ(first.properties.compute_capability, 90);
  EXPECT_EQ(first.properties.multiprocessors, 132);
  EXPECT_EQ(first.properties.shared_bytes, 232448);
  EXPECT_EQ(first.memory_bytes, int64_t{80} << 30);
  EXPECT_EQ(first.l2_bytes, 50 << 20);
  const int before = fake().count("cuDeviceGetAttribute");
  EXPECT_EQ(&cuda_device(1), &first);
  EXPECT_EQ(fake().count("cuDeviceGetAttribute"), before);
}

TEST_F(DriverTest, devices_out_of_range_are_refused) {
  for (const int32_t index : {-1, 2, 64, 1 << 30}) {
    const std::string message = error_of(ErrorKind::kValue, [&] { cuda_device(index); });
    EXPECT_NE(message.find("0 to 1"), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(index)), std::string::npos) << message;
  }
}

TEST_F(DriverTest, errors_carry_name_text_and_purpose) {
  const std::string message =
      error_of(ErrorKind::kRuntime, [] { check(2, "cuThing", "Doing the thing."); });
  EXPECT_EQ(message, "cuThing: CUDA_ERROR_OUT_OF_MEMORY (out of memory). Doing the thing.");
  EXPECT_NE(error_of(ErrorKind::kRuntime, [] { check(12345, "cuThing", "x"); }).find("12345"),
            std::string::npos);
  EXPECT_NE(error_of(ErrorKind::kRuntime, [] { check(3, "cuThing", "x"); }).find("spawn"),
            std::string::npos);
}

api::Context current_context() {
  api::Context context = nullptr;
  check(driver().ctx_get_current(&context), "cuCtxGetCurrent", "");
  return context;
}

TEST_F(DriverTest, scoped_device_makes_the_primary_context_current_and_restores) {
  // A fresh thread has no context, as a Python thread that has not used CUDA.
  std::thread([] {
    EXPECT_EQ(current_context(), nullptr);
    {
      const ScopedDevice outer(cuda_device(0));
      api::Context const zero = current_context();
      EXPECT_NE(zero, nullptr);
      {
        const ScopedDevice inner(cuda_device(1));
        EXPECT_NE(current_context(), zero);
      }
      EXPECT_EQ(current_context(), zero);
      const int pushes = fake().count("cuCtxPushCurrent");
      const ScopedDevice again(cuda_device(0));  // current already: nothing to push
      EXPECT_EQ(fake().count("cuCtxPushCurrent"), pushes);
    }
    EXPECT_EQ(current_context(), nullptr);
  }).join();
}

TEST_F(DriverTest, threads_retain_a_context_once) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([i] {
      for (int repeat = 0; repeat < 50; ++repeat)
        const ScopedDevice scoped(cuda_device((i + repeat) % 2));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(fake().count("cuDevicePrimaryCtxRetain"), 2);
  EXPECT_EQ(fake().count("cuCtxPushCurrent"), fake().count("cuCtxPopCurrent"));
}

}  // namespace
}  // namespace bsk::cuda
