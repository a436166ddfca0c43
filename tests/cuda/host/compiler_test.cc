// The real NVRTC: it needs no GPU.
#include "src/cuda/host/compiler.h"

#include <algorithm>
#include <thread>

#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

using testing::EngineTest;
using testing::error_of;

class CompilerTest : public EngineTest {};

CompileOptions plain_options() {
  CompileOptions options;
  options.architecture = "90a";
  return options;
}

constexpr char kKernel[] =
    "extern \"C\" __global__ void twice(float* x) {\n  x[threadIdx.x] *= 2;\n}\n";

TEST_F(CompilerTest, status_tells_version_and_place) {
  const CompilerStatus status = compiler_status();
  ASSERT_TRUE(status.available) << status.sentence;
  EXPECT_NE(status.path.find("nvrtc"), std::string::npos);
  EXPECT_EQ(status.sentence, "NVRTC " + status.version + " at " + status.path);
}

TEST_F(CompilerTest, machine_code_names_its_kernel_and_the_log_its_registers) {
  const CompileResult result = compile(kKernel, "twice.cu", plain_options());
  EXPECT_EQ(result.cubin.substr(0, 4), "\177ELF");
  EXPECT_NE(result.cubin.find("twice"), std::string::npos);
  EXPECT_NE(result.log.find("registers"), std::string::npos) << result.log;
  EXPECT_GT(result.seconds, 0);
}

TEST_F(CompilerTest, line_information_only_where_it_is_asked_for) {
  CompileOptions options = plain_options();
  EXPECT_EQ(compile(kKernel, "twice.cu", options).cubin.find("debug_line"), std::string::npos);
  options.line_info = true;
  const std::string cubin = compile(kKernel, "twice.cu", options).cubin;
  EXPECT_NE(cubin.find("debug_line"), std::string::npos);
  EXPECT_NE(cubin.find("twice.cu"), std::string::npos);
}

TEST_F(CompilerTest, defines_reach_the_source) {
  CompileOptions options = plain_options();
  options.defines = {"BSK_DEBUG_CHECKS=1"};
  const std::string source = std::string("static_assert(BSK_DEBUG_CHECKS == 1);\n") + kKernel;
  EXPECT_FALSE(compile(source, "twice.cu", options).cubin.empty());
}

TEST_F(CompilerTest, an_error_shows_file_line_and_message) {
  const std::string message = error_of(ErrorKind::kRuntime, [] {
    compile("__global__ void f() {\n  undefined_name = 1;\n}\n", "broken.cu", plain_options());
  });
  EXPECT_NE(message.find("broken.cu(2): error: identifier \"undefined_name\" is undefined"),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("sm_90a"), std::string::npos) << message;
}

TEST_F(CompilerTest, an_error_is_shown_before_the_warnings_that_precede_it) {
  std::string source = "__global__ void f() {\n";
  for (int i = 0; i < 30; ++i) source += "  int unused" + std::to_string(i) + ";\n";
  const std::string message = error_of(ErrorKind::kRuntime, [&] {
    compile(source + "}\nint broken = undefined_name;\n", "late.cu", plain_options());
  });
  EXPECT_NE(message.find("undefined_name"), std::string::npos) << message;
}

TEST_F(CompilerTest, a_flood_of_errors_is_cut) {
  std::string source;
  for (int i = 0; i < 80; ++i)
    source += "int a" + std::to_string(i) + " = missing" + std::to_string(i) + ";\n";
  const std::string message =
      error_of(ErrorKind::kRuntime, [&] { compile(source, "flood.cu", plain_options()); });
  EXPECT_LE(std::count(message.begin(), message.end(), '\n'), 12) << message;
}

TEST_F(CompilerTest, an_unknown_architecture_is_refused) {
  CompileOptions options = plain_options();
  options.architecture = "12345";
  const std::string message =
      error_of(ErrorKind::kRuntime, [&] { compile(kKernel, "twice.cu", options); });
  EXPECT_NE(message.find("sm_12345"), std::string::npos) << message;
}

TEST_F(CompilerTest, headers_of_the_working_directory_are_not_found) {
  const testing::TemporaryDir dir;
  testing::write_file(dir.path() + "/stray.h", "#pragma once\n");
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  const std::string message = error_of(
      ErrorKind::kRuntime, [] { compile("#include \"stray.h\"\n", "a.cu", plain_options()); });
  std::filesystem::current_path(before);
  EXPECT_NE(message.find("stray.h"), std::string::npos) << message;
}

TEST_F(CompilerTest, threads_compile_side_by_side) {
  std::vector<std::thread> threads;
  std::vector<std::string> cubins(4);
  for (std::string& cubin : cubins) {
    threads.emplace_back([&cubin] { cubin = compile(kKernel, "twice.cu", plain_options()).cubin; });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& cubin : cubins) EXPECT_EQ(cubin, cubins[0]);
}

// Ends the process: the first NVRTC that was found stays in use.
[[noreturn]] void tell_status_without_nvrtc() {
  EnginePlaces places = testing::test_places();
  places.nvrtc_libraries = {"/nowhere/libnvrtc.so.13", "libdl.so.2"};
  set_engine_places(places);
  const CompilerStatus status = compiler_status();
  std::fprintf(stderr, "%s", status.sentence.c_str());
  std::_Exit(status.available ? 0 : 3);
}

TEST_F(CompilerTest, absence_is_a_sentence_that_names_the_remedy) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  // A machine may have a system-wide NVRTC; then that one is found, which is right too.
  const auto absent_or_the_systems = [](int status) {
    return WIFEXITED(status) && (WEXITSTATUS(status) == 3 || WEXITSTATUS(status) == 0);
  };
  EXPECT_EXIT(tell_status_without_nvrtc(), absent_or_the_systems,
              "libdl.so.2 lacks nvrtc.*pip install nvidia-cuda-nvrtc|NVRTC 1[23]");
}

}  // namespace
}  // namespace bsk::cuda
