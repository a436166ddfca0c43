// What the compiler makes of every documented Hopper configuration: needs NVRTC, no GPU.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <regex>

#include "src/cuda/catalog.h"
#include "src/cuda/host/compiler.h"
#include "src/cuda/host/engine.h"
#include "src/cuda/sm90/attention_forward/launch.h"

namespace bsk::cuda {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(':', begin)) != std::string::npos; begin = end + 1) {
    parts.push_back(text.substr(begin, end - begin));
  }
  parts.push_back(text.substr(begin));
  return parts;
}

int64_t number_before(const std::string& log, const std::string& words) {
  std::smatch match;
  return std::regex_search(log, match, std::regex("([0-9]+) " + words)) ? std::stoll(match[1]) : -1;
}

std::string disassembly(const std::string& name, const std::string& cubin) {
  // One file a configuration: ctest runs them side by side.
  const std::string path = ::testing::TempDir() + name + ".cubin";
  std::ofstream(path, std::ios::binary) << cubin;
  const std::string command = std::string(NVDISASM) + " -c " + path;
  std::string text;
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return text;
  std::array<char, 65536> buffer;
  size_t count;
  while ((count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0)
    text.append(buffer.data(), count);
  pclose(pipe);
  std::remove(path.c_str());
  return text;
}

class MachineCode : public ::testing::TestWithParam<KernelRequest> {};

bool multiplies(const KernelRequest& request) {
  return request.name.find("_attention_") != std::string::npos;
}

TEST_P(MachineCode, HasNoSpillsAndUsesTheTensorCores) {
  EnginePlaces places;
  places.nvrtc_libraries = split(NVRTC_LIBRARIES);
  set_engine_places(places);
  const CompilerStatus status = compiler_status();
  if (!status.available) GTEST_SKIP() << status.sentence;
  CompileOptions options;
  options.architecture = GetParam().architecture;
  options.include_dirs = {PACKED_SOURCES, PACKED_SOURCES "/cccl"};  // what the package brings
  const CompileResult result =
      compile(translation_unit(GetParam()), GetParam().name + ".cu", options);
  EXPECT_EQ(number_before(result.log, "bytes spill stores"), 0) << result.log;
  EXPECT_EQ(number_before(result.log, "bytes spill loads"), 0) << result.log;
  std::smatch registers;
  ASSERT_TRUE(std::regex_search(result.log, registers, std::regex("Used ([0-9]+) registers")));
  // 64 Ki registers for 384 threads, and for the latency kernel's 128 or 256.
  const bool latency = GetParam().name.find("_forward_small_") != std::string::npos;
  EXPECT_LE(std::stoi(registers[1]), latency ? 255 : 168);
  // C7508, C7510...: setmaxnreg ignored, wgmma serialised.
  EXPECT_EQ(result.log.find("(C75"), std::string::npos) << result.log;
  // About 160 KB are functions of the headers, which NVRTC keeps.
  EXPECT_LT(result.cubin.size(), 256u * 1024);
  EXPECT_LT(result.seconds, 60.0);
  std::printf("%s: %s registers, %zu bytes, %.1f s\n", GetParam().name.c_str(),
              registers[1].str().c_str(), result.cubin.size(), result.seconds);
  RecordProperty("registers", registers[1].str());
  RecordProperty("cubin_bytes", static_cast<int>(result.cubin.size()));
  RecordProperty("compile_ms", static_cast<int>(result.seconds * 1000));
  if (std::string(NVDISASM).empty()) return;
  const std::string code = disassembly(GetParam().name, result.cubin);
  const bool by_warps = GetParam().name.find("_few_rows") != std::string::npos;
  EXPECT_EQ(code.find("HGMMA") != std::string::npos, multiplies(GetParam()) && !by_warps);
  EXPECT_EQ(code.find("HMMA") != std::string::npos, by_warps);
  EXPECT_EQ(code.find(" LDL"), std::string::npos);
  EXPECT_EQ(code.find(" STL"), std::string::npos);
  // Where ptxas does not see that the lanes agree it keeps descriptors and barriers' addresses out
  // of the uniform registers, which costs a tenth of the time.
  if (GetParam().name == "sm90_attention_forward_d64_fp16_q128k128") {
    EXPECT_EQ(code.find("WARPSYNC"), std::string::npos);
  }
}

// All builders of block masks, all documented fp16 configurations and one of bf16, whose code
// differs in the names of two instructions: three seconds each.
std::vector<KernelRequest> compiled_here() {
  std::vector<KernelRequest> requests;
  for (const KernelRequest& request : documented_requests()) {
    const bool fp16 = request.name.find("_fp16") != std::string::npos;
    if (fp16 || !multiplies(request) ||
        request.name == "sm90_attention_forward_d128_bf16_q128k128") {
      requests.push_back(request);
    }
  }
  // Not documented, but with the least room for attn_mask, or many blocks a tile.
  using sm90::attention_forward::ConfigChoice;
  constexpr arch::Element kFp16 = arch::Element::kFloat16;
  for (const ConfigChoice& choice : {
           ConfigChoice{kFp16, {256, 256, 2, 64, 64}, false, tile::MaskType::kKeys},
           ConfigChoice{kFp16, {256, 256, 2, 64, 64, 1}, false, tile::MaskType::kBool},
           ConfigChoice{kFp16, {256, 256, 2, 32, 32, 1, true}, false, tile::MaskType::kBool},
           ConfigChoice{kFp16, {256, 256, 2, 32, 32, 2, true}, true, tile::MaskType::kFloat16},
           ConfigChoice{kFp16, {256, 256, 2, 32, 32, 4, true}, true, tile::MaskType::kFloat32},
           ConfigChoice{kFp16, {128, 128, 2, 64, 64, 4, true}, true, tile::MaskType::kFloat32},
           ConfigChoice{kFp16, {128, 128, 2, 64, 64, 2, true}, true, tile::MaskType::kFloat16},
           ConfigChoice{kFp16, {256, 256, 2, 64, 64, 2}, true, tile::MaskType::kFloat16},
           ConfigChoice{kFp16, {256, 256, 2, 64, 64, 4}, true, tile::MaskType::kFloat32},
           ConfigChoice{kFp16, {192, 192, 2, 64, 64}, false, tile::MaskType::kKeys},
           ConfigChoice{kFp16, {192, 192, 2, 64, 64, 2}, true, tile::MaskType::kFloat16},
           ConfigChoice{kFp16, {128, 128, 2, 64, 64, 4}, true, tile::MaskType::kFloat32},
           ConfigChoice{kFp16, {128, 128, 1, 128, 64}, false, tile::MaskType::kKeys},
           ConfigChoice{kFp16, {128, 128, 2, 128, 16}},
           ConfigChoice{kFp16, {128, 128, 2, 128, 16, 0, false, false, false, true}},
           ConfigChoice{kFp16, {64, 64, 1, 128, 32}},
           ConfigChoice{kFp16, {64, 64, 1, 128, 16, 2, true}, true, tile::MaskType::kFloat16},
       }) {
    requests.push_back(sm90::attention_forward::request(choice));
  }
  return requests;
}

INSTANTIATE_TEST_SUITE_P(Documented, MachineCode, ::testing::ValuesIn(compiled_here()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace bsk::cuda
