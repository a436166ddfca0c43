// The rules of a call, on problems made by hand: what Python cannot express is tested here, the
// rest in tests/python/test_wrong_calls.py.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "bsk/attention.h"

namespace bsk {
namespace {

struct Storage {
  std::vector<float> q, k, v, out;
};

AttentionBuffers buffers_for(const AttentionProblem& p, Storage& storage) {
  const auto size = [](const TensorLayout& t) {
    return static_cast<size_t>(t.shape[0] * t.shape[1] * t.shape[2] * t.shape[3]) + 1;
  };
  storage.q.resize(size(p.q));
  storage.k.resize(size(p.k));
  storage.v.resize(size(p.v));
  storage.out.resize(size(p.out));
  AttentionBuffers buffers;
  buffers.q = storage.q.data();
  buffers.k = storage.k.data();
  buffers.v = storage.v.data();
  buffers.out = storage.out.data();
  return buffers;
}

// The error of a problem with one thing changed; "" if it is valid.
std::string error_of(const std::function<void(AttentionProblem&, AttentionBuffers&)>& change) {
  AttentionProblem problem = dense_problem(DataType::kFloat32, 2, 4, 2, 65, 70, 32, 48);
  Storage storage;
  AttentionBuffers buffers = buffers_for(problem, storage);
  change(problem, buffers);
  try {
    validate(problem, buffers);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_NAMES(message, argument, part)                           \
  do {                                                                  \
    const std::string text = message;                                   \
    EXPECT_EQ(text.rfind(std::string(argument) + ": ", 0), 0u) << text; \
    EXPECT_NE(text.find(part), std::string::npos) << text;              \
  } while (false)

TEST(Validate, TakesACorrectProblem) {
  EXPECT_EQ(error_of([](AttentionProblem&, AttentionBuffers&) {}), "");
}

TEST(Validate, DevicesMustAgree) {
  EXPECT_NAMES(
      error_of([](AttentionProblem& p, AttentionBuffers&) { p.k.device = DeviceType::kCuda; }), "K",
      "cuda:0");
  EXPECT_NAMES(error_of([](AttentionProblem& p, AttentionBuffers&) {
                 for (TensorLayout* t : {&p.q, &p.k, &p.v, &p.out}) t->dtype = DataType::kFloat16;
                 for (TensorLayout* t : {&p.q, &p.k, &p.v, &p.out}) t->device = DeviceType::kCuda;
                 p.v.device_index = 1;
               }),
               "V", "cuda:1");
}

TEST(Validate, Float32IsNotTakenOnAGpu) {
  EXPECT_NAMES(error_of([](AttentionProblem& p, AttentionBuffers&) {
                 for (TensorLayout* t : {&p.q, &p.k, &p.v, &p.out}) t->device = DeviceType::kCuda;
               }),
               "Q", "float16 or bfloat16 on a GPU");
}

TEST(Validate, BlockMasksMustFit) {
  const BlockMaskLayout fits = {.present = true,
                                .block_q = 64,
                                .block_k = 32,
                                .batch = 1,
                                .heads = 2,
                                .q_blocks = 2,
                                .full_width = 3};
  const auto error = [&](const std::function<void(BlockMaskLayout&)>& change) {
    return error_of([&](AttentionProblem& p, AttentionBuffers&) {
      p.block_mask = fits;
      change(p.block_mask);
    });
  };
  EXPECT_EQ(error([](BlockMaskLayout&) {}), "");
  EXPECT_NAMES(error([](BlockMaskLayout& m) { m.block_q = 32; }), "block_mask", "32");
  EXPECT_NAMES(error([](BlockMaskLayout& m) { m.block_k = 48; }), "block_mask", "48");
  EXPECT_NAMES(error([](BlockMaskLayout& m) { m.batch = 3; }), "block_mask", "batch");
  EXPECT_NAMES(error([](BlockMaskLayout& m) { m.heads = 3; }), "block_mask", "heads");
  EXPECT_NAMES(error([](BlockMaskLayout& m) { m.q_blocks = 3; }), "block_mask", "ceil");
}

TEST(Validate, OutMustNotOverlap) {
  EXPECT_NAMES(
      error_of([](AttentionProblem&, AttentionBuffers& b) { b.out = const_cast<void*>(b.v); }),
      "out", "V");
  EXPECT_NAMES(error_of([](AttentionProblem& p, AttentionBuffers&) { p.out.stride[1] = 0; }), "out",
               "itself");
  EXPECT_NAMES(error_of([](AttentionProblem& p, AttentionBuffers&) { p.out.stride[2] = 1; }), "out",
               "itself");
}

TEST(Validate, NumbersMustBeFinite) {
  for (double bad : {std::nan(""), std::numeric_limits<double>::infinity(), 1e39}) {
    EXPECT_NAMES(error_of([&](AttentionProblem& p, AttentionBuffers&) { p.scale = bad; }), "scale",
                 "must");
    EXPECT_NAMES(error_of([&](AttentionProblem& p, AttentionBuffers&) { p.softcap = bad; }),
                 "softcap", "finite");
  }
  EXPECT_NAMES(error_of([](AttentionProblem& p, AttentionBuffers&) { p.window_left = -2; }),
               "window", "-2");
}

}  // namespace
}  // namespace bsk
