// From a problem to a kernel and a plan, with no GPU: reasons, messages, forced kernels, a sweep of
// 10^5 problems.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "src/attention/kernel.h"

namespace bsk {
namespace {

AttentionProblem small_problem(DataType dtype = DataType::kFloat32) {
  return dense_problem(dtype, 1, 8, 8, 128, 128, 64, 64);
}

DeviceProperties gpu(int32_t compute_capability) {
  DeviceProperties device;
  device.type = DeviceType::kCuda;
  device.name = "a test device";
  device.compute_capability = compute_capability;
  device.multiprocessors = 132;
  device.shared_bytes = 232448;
  return device;
}

std::string unsupported_message(const AttentionProblem& problem, const DeviceProperties& device,
                                const std::string& forced = "") {
  try {
    choose_kernel(problem, device, forced);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    return error.what();
  }
  ADD_FAILURE() << "a kernel took the problem";
  return "";
}

TEST(Kernels, HaveDistinctNames) {
  for (size_t i = 0; i < kernels().size(); ++i) {
    EXPECT_STRNE(kernels()[i].summary, "");
    for (size_t j = 0; j < i; ++j) EXPECT_STRNE(kernels()[i].name, kernels()[j].name);
  }
}

TEST(ChooseKernel, TakesTheBlockedKernelOnACpu) {
  EXPECT_STREQ(choose_kernel(small_problem(), cpu_properties(1)).name, "cpu_attention_forward");
}

TEST(ChooseKernel, TakesTheOracleOnlyWhenForced) {
  EXPECT_STREQ(choose_kernel(small_problem(), cpu_properties(1), "cpu_reference").name,
               "cpu_reference");
  EXPECT_NE(unsupported_message(small_problem(DataType::kFloat64), cpu_properties(1))
                .find("cpu_attention_forward"),
            std::string::npos);
}

TEST(ChooseKernel, NamesTheArchitectureAndTheThreeOptions) {
  AttentionProblem problem = small_problem(DataType::kFloat16);
  problem.q.device = problem.k.device = problem.v.device = problem.out.device = DeviceType::kCuda;
  const std::string message = unsupported_message(problem, gpu(89));
  EXPECT_EQ(message.rfind("Unsupported architecture: sm_89", 0), 0u) << message;
  for (const char* option : {"Option A", "Option B", "Option C"}) {
    EXPECT_NE(message.find(option), std::string::npos) << option;
  }
}

TEST(ChooseKernel, GivesEveryKernelsReasons) {
  AttentionProblem problem = small_problem(DataType::kFloat16);
  problem.q.device = problem.k.device = problem.v.device = problem.out.device = DeviceType::kCuda;
  const std::string message = unsupported_message(problem, gpu(120));
  for (const Kernel& kernel : kernels()) {
    EXPECT_NE(message.find(std::string("\n  ") + kernel.name + ": "), std::string::npos)
        << kernel.name;
  }
}

TEST(ChooseKernel, TakesHopperKernelsByTheirReasonsOrByName) {
  const auto on_gpu = [](int64_t batch, int64_t heads, int64_t q_len, int64_t kv_len) {
    AttentionProblem problem =
        dense_problem(DataType::kFloat16, batch, heads, heads, q_len, kv_len, 64, 64);
    problem.q.device = problem.k.device = problem.v.device = problem.out.device = DeviceType::kCuda;
    return problem;
  };
  const auto chosen = [&](const AttentionProblem& problem, const char* forced = "") {
    return std::string(choose_kernel(problem, gpu(90), forced).name);
  };
  EXPECT_EQ(chosen(on_gpu(1, 8, 512, 512)), "sm90_attention_forward_small");
  EXPECT_EQ(chosen(on_gpu(1, 8, 512, 512), "sm90_attention_forward"), "sm90_attention_forward");
  EXPECT_EQ(chosen(on_gpu(64, 8, 512, 512)), "sm90_attention_forward");  // the same chains
  EXPECT_EQ(chosen(on_gpu(1, 8, 1, 8192)), "sm90_attention_forward_split");
  EXPECT_EQ(chosen(on_gpu(1, 16, 4096, 4096)), "sm90_attention_forward");
}

// Tiles are counted in 32 bits on a GPU.
TEST(ChooseKernel, HopperKernelsRefuseMoreTilesThanTheyCount) {
  AttentionProblem problem =
      dense_problem(DataType::kFloat16, int64_t{1} << 16, int64_t{1} << 15, 1, 1, 64, 64, 64);
  problem.q.device = problem.k.device = problem.v.device = problem.out.device = DeviceType::kCuda;
  EXPECT_NE(unsupported_message(problem, gpu(90)).find("fewer than 2^31 tiles"), std::string::npos);
  problem.q.shape[0] = problem.k.shape[0] = problem.v.shape[0] = problem.out.shape[0] = 65535;
  EXPECT_NO_THROW(choose_kernel(problem, gpu(90)));
}

// A plan is made for any valid problem, and covers every query row exactly once.
TEST(Plan, HoldsOverManyProblems) {
  std::mt19937_64 random(7);
  const auto pick = [&](std::initializer_list<int64_t> values) {
    return *(values.begin() + static_cast<int64_t>(random() % values.size()));
  };
  for (int i = 0; i < 100000; ++i) {
    const int64_t kv_heads = pick({1, 2, 3, 8, 12, 40});
    AttentionProblem problem =
        dense_problem(static_cast<DataType>(pick({1, 2, 3})), pick({0, 1, 2, 7, 64}),
                      kv_heads * pick({1, 2, 4, 8, 16}), kv_heads,
                      pick({0, 1, 2, 63, 64, 65, 127, 1000, 4096, 100003}),
                      pick({0, 1, 5, 64, 129, 1000, 4096, 1000003}),
                      pick({16, 24, 64, 80, 96, 128, 192, 256}), pick({16, 64, 72, 128, 256}));
    problem.causal = static_cast<Causal>(pick({0, 1, 2}));
    problem.window_left = pick({-1, 0, 5, 512});
    problem.window_right = pick({-1, 0, 17});
    problem.softcap = pick({0, 30});
    problem.return_lse = pick({0, 1}) != 0;
    if (pick({0, 1, 2}) == 0) {
      problem.block_mask = {.present = true,
                            .block_q = static_cast<int32_t>(pick({64, 128})),
                            .block_k = static_cast<int32_t>(pick({16, 32, 64, 128})),
                            .batch = 1,
                            .heads = pick({1, kv_heads, problem.q_heads()}),
                            .q_blocks = 0,
                            .full_width = 4};
      problem.block_mask.q_blocks =
          (problem.q_len() + problem.block_mask.block_q - 1) / problem.block_mask.block_q;
    }
    const DeviceProperties device = cpu_properties(static_cast<int32_t>(pick({1, 2, 64})));
    const AttentionPlan result = plan(problem, device);
    ASSERT_NE(result.kernel, nullptr);
    ASSERT_GE(result.q_tile, 1);
    ASSERT_GE(result.kv_tile, 1);
    ASSERT_GE(result.threads, 1);
    ASSERT_LE(result.threads, device.threads);
    const int64_t rows = problem.batch() * problem.q_heads() * problem.q_len();
    ASSERT_GE(result.tasks * result.q_tile, rows) << to_string(result);
    ASSERT_EQ(result.tasks == 0, rows == 0) << to_string(result);
    ASSERT_FALSE(to_string(result).empty());
  }
}

}  // namespace
}  // namespace bsk
