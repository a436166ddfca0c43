#include "src/cuda/host/kernel_library.h"

#include <thread>

#include "src/cuda/host/compiler.h"
#include "src/cuda/host/kernel_cache.h"
#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

namespace fs = std::filesystem;
using testing::cutlass_request;
using testing::EngineTest;
using testing::error_of;
using testing::vehicle_request;

class KernelLibraryTest : public EngineTest {};

// The library remembers what it found for the life of a process: `body` runs in a fresh one, with
// this test's folders.
template <class Body>
int in_fresh_process(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    int code = 99;
    try {
      code = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int origin_of(const KernelRequest& request) {
  return static_cast<int>(kernel_code(request)->origin);
}

TEST_F(KernelLibraryTest, the_translation_unit_instantiates_one_configuration) {
  EXPECT_EQ(translation_unit(vehicle_request(96)),
            "#include \"src/cuda/vehicle/scale.cuh\"\n"
            "using KernelConfig = vehicle::Config<96>;\n"
            "extern \"C\" __global__ void __launch_bounds__(KernelConfig::kThreads, "
            "KernelConfig::kMinBlocks)\n"
            "vehicle_t96(const __grid_constant__ KernelConfig::Params params) {\n"
            "  vehicle::scale<KernelConfig>(params);\n"
            "}\n");
}

// The packed folder alone, with CUTLASS inside: nothing of the build machine's is on the include
// path.
TEST_F(KernelLibraryTest, a_packed_kernel_compiles_and_is_found_in_the_disk_cache) {
  const KernelRequest request = cutlass_request(128);
  ASSERT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kCompiled));
  ASSERT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kDiskCache));
  const std::shared_ptr<const KernelCode> code = kernel_code(request);
  EXPECT_EQ(code->cubin.substr(0, 4), "\177ELF");
  EXPECT_NE(code->cubin.find("cutlass_t128"), std::string::npos);
  EXPECT_EQ(kernel_code(request), code);  // the same object from then on
}

TEST_F(KernelLibraryTest, each_option_that_changes_the_code_has_a_file_of_its_own) {
  const auto files = [&] { return KernelCache(cache_dir(), 0).stats().files; };
  const KernelRequest request = vehicle_request(160);
  EXPECT_FALSE(kernel_code(request)->debug_checks);
  EXPECT_EQ(files(), 1);
  use({{"debug_mode", "1"}});
  EXPECT_TRUE(kernel_code(request)->debug_checks);
  EXPECT_EQ(files(), 2);
  use({{"enable_profiling", "1"}});
  EXPECT_NE(kernel_code(request)->cubin.find("debug_line"), std::string::npos);
  EXPECT_EQ(files(), 3);
}

TEST_F(KernelLibraryTest, a_damaged_file_is_compiled_anew_and_replaced) {
  const KernelRequest request = vehicle_request(192);
  ASSERT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kCompiled));
  for (const auto& entry : fs::directory_iterator(cache_dir())) fs::resize_file(entry.path(), 1000);
  ASSERT_EQ(in_fresh_process([&] {
              const int origin = origin_of(request);
              return take_engine_notices().size() == 1 ? origin : 50;
            }),
            static_cast<int>(KernelOrigin::kCompiled));
  EXPECT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kDiskCache));
}

TEST_F(KernelLibraryTest, without_a_writable_cache_it_compiles_all_the_same) {
  testing::write_file(cache_dir() + "/file", "");
  set_settings({{"build_dir", cache_dir() + "/file/below"}});
  EXPECT_EQ(kernel_code(vehicle_request(224))->origin, KernelOrigin::kCompiled);
  const std::vector<std::string> notices = take_engine_notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("cannot be written"), std::string::npos);
}

TEST_F(KernelLibraryTest, other_sources_are_another_kernel) {
  const KernelRequest request = vehicle_request(256);
  ASSERT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kCompiled));
  const testing::TemporaryDir copy;
  fs::create_directory_symlink(std::string(VEHICLE_DIR) + "/source", copy.path() + "/source");
  testing::write_file(copy.path() + "/source.digest", "another digest\n");
  EnginePlaces places = testing::test_places();
  places.kernel_dir = copy.path();
  set_engine_places(places);
  EXPECT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kCompiled));
}

TEST_F(KernelLibraryTest, embedded_cubins_come_first_and_need_no_compiler) {
  const testing::TemporaryDir package;
  fs::create_directory_symlink(std::string(VEHICLE_DIR) + "/source", package.path() + "/source");
  fs::copy_file(std::string(VEHICLE_DIR) + "/source.digest", package.path() + "/source.digest");
  EnginePlaces places = testing::test_places();
  places.kernel_dir = package.path();
  set_engine_places(places);
  const KernelRequest request = vehicle_request(288);
  ASSERT_EQ(in_fresh_process([&] {
              embed_kernel(request, package.path() + "/cubins");
              return 0;
            }),
            0);
  places.nvrtc_libraries = {};
  set_engine_places(places);
  EXPECT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kEmbedded));
  EXPECT_EQ(KernelCache(cache_dir(), 0).stats().files, 0);
  // Other options are not what was embedded.
  set_engine_places([&] {
    places = testing::test_places();
    places.kernel_dir = package.path();
    return places;
  }());
  use({{"debug_mode", "1"}});
  EXPECT_EQ(in_fresh_process([&] { return origin_of(request); }),
            static_cast<int>(KernelOrigin::kCompiled));
}

TEST_F(KernelLibraryTest, threads_compile_a_kernel_once) {
  const KernelRequest request = vehicle_request(320);
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<const KernelCode>> codes(8);
  for (auto& code : codes) threads.emplace_back([&] { code = kernel_code(request); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& code : codes) EXPECT_EQ(code, codes[0]);
}

TEST_F(KernelLibraryTest, a_build_without_sources_says_so) {
  EnginePlaces places = testing::test_places();
  places.kernel_dir = "/nowhere";
  set_engine_places(places);
  const std::string message =
      error_of(ErrorKind::kRuntime, [] { kernel_code(vehicle_request(352)); });
  EXPECT_NE(message.find("vehicle_t352"), std::string::npos) << message;
  EXPECT_NE(message.find("no kernel sources (/nowhere"), std::string::npos) << message;
}

TEST_F(KernelLibraryTest, a_configuration_that_does_not_compile_shows_the_compilers_words) {
  KernelRequest request = vehicle_request(384);
  request.config = "vehicle::NoSuchConfig";
  const std::string message = error_of(ErrorKind::kRuntime, [&] { kernel_code(request); });
  EXPECT_NE(message.find("NoSuchConfig"), std::string::npos) << message;
  EXPECT_EQ(KernelCache(cache_dir(), 0).stats().files, 0);
}

}  // namespace
}  // namespace bsk::cuda
