// attention_forward over the fake driver: what the first call of a problem prepares, the next ones
// use, and nothing else.
#include <cstring>
#include <thread>

#include "bsk/attention.h"
#include "src/cuda/host/driver.h"
#include "src/cuda/sm90/attention_forward_small/config.h"
#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

using testing::EngineTest;
using testing::error_of;
using testing::fake;

constexpr char kSmall[] = "sm90_attention_forward_small";

// A call whose tensors lie at `base` and 64 MB behind each other.
struct GpuCall {
  AttentionProblem problem = dense_problem(DataType::kFloat16, 1, 2, 2, 128, 128, 64, 64);
  AttentionBuffers buffers;

  explicit GpuCall(uintptr_t base = uintptr_t{1} << 32, int32_t device = 0) {
    constexpr uintptr_t kApart = uintptr_t{64} << 20;
    for (TensorLayout* t : {&problem.q, &problem.k, &problem.v, &problem.out}) {
      t->device = DeviceType::kCuda;
      t->device_index = device;
    }
    buffers.q = reinterpret_cast<const void*>(base);
    buffers.k = reinterpret_cast<const void*>(base + kApart);
    buffers.v = reinterpret_cast<const void*>(base + 2 * kApart);
    buffers.out = reinterpret_cast<void*>(base + 3 * kApart);
    buffers.stream = reinterpret_cast<void*>(uintptr_t{0x77});
  }

  const AttentionPlan& run(const std::string& forced = kSmall) const {
    DeviceProperties device;
    device.type = DeviceType::kCuda;
    device.name = "fake";
    device.compute_capability = 90;
    device.multiprocessors = 132;
    device.shared_bytes = 232448;
    return attention_forward(problem, buffers, device, forced);
  }
};

// The address in the tensor map of Q, which it begins with.
uintptr_t q_address(const FakeLaunch& launch) {
  using Params = sm90::attention_forward_small::Params;
  uintptr_t address = 0;
  std::memcpy(&address, launch.params.data() + offsetof(Params, q), sizeof(address));
  return address;
}

class PreparedCallsTest : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    fake().params_bytes = sizeof(sm90::attention_forward_small::Params);
    EnginePlaces places = testing::test_places();
    places.kernel_dir = REAL_KERNEL_DIR;
    set_engine_places(places);
  }
};

TEST_F(PreparedCallsTest, the_second_call_replaces_addresses_and_launches) {
  GpuCall().run();
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 3);
  EXPECT_EQ(fake().count("cuTensorMapReplaceAddress"), 0);
  const ScopedDevice current(cuda_device(0));
  fake().calls.clear();
  const uintptr_t elsewhere = uintptr_t{3} << 33;
  const AttentionPlan& plan = GpuCall(elsewhere).run();
  EXPECT_EQ(fake().calls,
            (std::vector<std::string>{"cuCtxGetCurrent", "cuTensorMapReplaceAddress",
                                      "cuTensorMapReplaceAddress", "cuTensorMapReplaceAddress",
                                      "cuLaunchKernelEx"}));
  ASSERT_EQ(fake().launches.size(), 2u);
  const FakeLaunch &first = fake().launches[0], &second = fake().launches[1];
  EXPECT_EQ(q_address(first), uintptr_t{1} << 32);
  EXPECT_EQ(q_address(second), elsewhere);
  EXPECT_EQ(second.kernel, plan.config);
  EXPECT_EQ(second.kernel, first.kernel);
  EXPECT_EQ(second.grid[0], first.grid[0]);
  EXPECT_EQ(second.shared_bytes, first.shared_bytes);
  EXPECT_EQ(second.stream, 0x77u);
}

TEST_F(PreparedCallsTest, whatever_differs_is_prepared_for_itself) {
  GpuCall().run();
  const std::vector<void (*)(AttentionProblem&)> changes = {
      [](AttentionProblem& p) { p.q.stride[1] *= 2; },
      [](AttentionProblem& p) { p.k.stride[2] += 8; },
      [](AttentionProblem& p) { p.v.stride[0] += 8; },
      [](AttentionProblem& p) { p.out.stride[0] += 8; },
      [](AttentionProblem& p) { p.scale = 0.25; },
      [](AttentionProblem& p) { p.causal = Causal::kUpperLeft; },
      [](AttentionProblem& p) { p.window_right = 3; },
      [](AttentionProblem& p) { p.return_lse = true; },
      [](AttentionProblem& p) { p.k.shape[2] = p.v.shape[2] = 100; },
  };
  int encoded = 3;
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (const auto change : changes) {
      GpuCall call;
      change(call.problem);
      call.run();
      if (repeat == 0) encoded += 3;
      EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), encoded);
    }
  }
}

TEST_F(PreparedCallsTest, more_problems_than_are_kept_stay_right) {
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (int64_t heads = 1; heads <= 66; ++heads) {
      GpuCall call;
      const TensorLayout layout = contiguous(DataType::kFloat16, {1, heads, 128, 64});
      for (TensorLayout* t :
           {&call.problem.q, &call.problem.k, &call.problem.v, &call.problem.out}) {
        t->shape = layout.shape;
        t->stride = layout.stride;
      }
      call.run();
      EXPECT_EQ(fake().launches.back().grid[0], 2u * static_cast<unsigned>(heads));
    }
  }
  EXPECT_EQ(fake().launches.size(), 132u);
}

TEST_F(PreparedCallsTest, settings_that_change_prepare_anew) {
  GpuCall().run();
  use({{"fallback", "sdpa"}});
  GpuCall().run();
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 6);
  GpuCall().run();
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 6);
}

TEST_F(PreparedCallsTest, debug_mode_waits_for_each_call) {
  use({{"debug_mode", "1"}});
  GpuCall().run();
  GpuCall().run();
  EXPECT_EQ(fake().count("cuStreamSynchronize"), 2);
}

TEST_F(PreparedCallsTest, each_device_has_its_own) {
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (const int32_t device : {0, 1}) {
      GpuCall(uintptr_t{1} << 32, device).run();
      EXPECT_EQ(fake().launches.back().device, device);
    }
  }
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 6);
}

TEST_F(PreparedCallsTest, threads_do_not_see_each_others_addresses) {
  fake().maps_need_context = true;
  std::vector<std::thread> threads;
  for (uintptr_t t = 1; t <= 8; ++t) {
    threads.emplace_back([t] {
      GpuCall call(t << 32);
      call.buffers.stream = reinterpret_cast<void*>(t);
      for (int repeat = 0; repeat < 50; ++repeat) call.run();
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(fake().launches.size(), 400u);
  for (const FakeLaunch& launch : fake().launches) {
    EXPECT_EQ(q_address(launch), launch.stream << 32);
  }
}

TEST_F(PreparedCallsTest, addresses_are_checked_at_each_call) {
  const auto overlapping = [] {
    GpuCall call;
    call.buffers.out = const_cast<void*>(call.buffers.k);
    call.run();
  };
  const auto unaligned = [] {
    GpuCall call;
    call.buffers.v = static_cast<const char*>(call.buffers.v) + 8;
    call.run();
  };
  for (int repeat = 0; repeat < 2; ++repeat) {  // before and after an equal problem was prepared
    EXPECT_NE(error_of(ErrorKind::kValue, overlapping).find("must lie apart from K"),
              std::string::npos);
    EXPECT_NE(error_of(ErrorKind::kValue, unaligned).find("V: must start at a multiple of 16"),
              std::string::npos);
    GpuCall().run();
  }
  EXPECT_EQ(fake().launches.size(), 2u);
}

// Where the copy engine takes attn_mask it has a map, whose address follows the call's; where the
// address or a row is no multiple of 16 bytes it has none.
TEST_F(PreparedCallsTest, attn_mask_is_copied_where_it_can_be) {
  const auto run = [](int64_t columns, uintptr_t address) {
    GpuCall call;
    call.problem.k.shape[2] = call.problem.v.shape[2] = columns;
    call.problem.mask_kind = MaskKind::kAdditive;
    call.problem.mask = contiguous(DataType::kFloat16, {1, 1, 128, columns});
    call.problem.mask.device = DeviceType::kCuda;
    call.buffers.mask = reinterpret_cast<const void*>((uintptr_t{1} << 40) + address);
    call.problem.mask.address_alignment = address_alignment(call.buffers.mask);
    fake().calls.clear();
    call.run("sm90_attention_forward");
  };
  run(128, 0);
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 4);
  run(128, 4096);
  EXPECT_EQ(fake().count("cuTensorMapReplaceAddress"), 4);
  run(128, 2);
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 3);
  run(127, 0);
  EXPECT_EQ(fake().count("cuTensorMapEncodeTiled"), 3);
  run(127, 4096);
  EXPECT_EQ(fake().count("cuTensorMapReplaceAddress"), 3);
}

TEST_F(PreparedCallsTest, unaligned_tensors_are_a_reason) {
  for (TensorLayout AttentionProblem::* tensor :
       {&AttentionProblem::q, &AttentionProblem::k, &AttentionProblem::v, &AttentionProblem::out}) {
    for (const char* kernel : {kSmall, "sm90_attention_forward"}) {
      GpuCall call;
      (call.problem.*tensor).address_alignment = 8;
      EXPECT_NE(error_of(ErrorKind::kUnsupported, [&] { call.run(kernel); })
                    .find("to start at a multiple of 16 bytes, not of 8"),
                std::string::npos);
    }
  }
}

}  // namespace
}  // namespace bsk::cuda
