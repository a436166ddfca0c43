// The emulator notices what it is there for: small kernels with one mistake each.
#include "tests/cuda/emulation/machine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "src/cuda/tile/products.cuh"
#include "tests/cuda/emulation/src/cuda/arch/barrier.cuh"
#include "tests/cuda/emulation/src/cuda/arch/cluster.cuh"
#include "tests/cuda/emulation/src/cuda/arch/core.cuh"
#include "tests/cuda/emulation/src/cuda/arch/tma.cuh"

namespace bsk::emulation {
namespace {

constexpr Timing kEverythingLate = {true, true, 1};

struct Tile {
  alignas(1024) uint16_t a[64 * 64];
  uint16_t b[64 * 64];
  arch::Barrier ready;
};
Tile& tile() { return *static_cast<Tile*>(arch::shared_memory()); }

std::string fault_of(const std::function<void()>& kernel, Timing timing = kEverythingLate) {
  try {
    machine().launch(1, 128, sizeof(Tile), timing, kernel);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

TensorMapContents ones() {
  static const std::vector<uint16_t> data(64 * 64, 0x3c00);  // 1.0 as fp16
  return {reinterpret_cast<const std::byte*>(data.data()),
          {64, 64, 1, 1},
          {128, 8192, 8192},
          {64, 64, 1, 1},
          2};
}

void load(uint16_t* destination) {
  if (arch::thread_index() != 0) return;
  arch::load_tile(encode(ones()), tile().ready, destination, 0, 0, 0, 0, arch::CacheHint::kNormal);
}

// Loads two tiles of ones and multiplies them; `waits` tells whether for the copies, `late` whether
// the result is read after the wait for the multiply.
float product(bool waits_for_copy, bool waits_for_multiply, Timing timing) {
  static float result;
  machine().launch(1, 128, sizeof(Tile), timing, [=] {
    if (arch::thread_index() == 0) {
      arch::barrier_init(tile().ready, 1);
      arch::barrier_arrive_and_expect(tile().ready, 2 * 8192);
    }
    arch::sync_block();
    load(tile().a);
    load(tile().b);
    arch::sync_block();
    if (waits_for_copy) arch::barrier_wait(tile().ready, 0);
    float s[32] = {};
    bsk::tile::issue_qk<arch::Element::kFloat16, 64, 64, 64>(s, tile().a, tile().b);
    if (waits_for_multiply) arch::mma_wait<0>();
    if (arch::thread_index() == 77) result = s[5];
    arch::mma_wait<0>();
    arch::barrier_wait(tile().ready, 0);
  });
  return result;
}

TEST(Emulator, MultipliesWhatTheCopiesBrought) {
  for (const Timing timing : kTimings) EXPECT_EQ(product(true, true, timing), 64.0f);
}

TEST(Emulator, ShowsAMissingWaitForACopy) {
  EXPECT_TRUE(std::isnan(product(false, true, {false, true, 1})));
}

TEST(Emulator, ShowsAMissingWaitForAMultiply) {
  for (const Timing timing : kTimings) EXPECT_TRUE(std::isnan(product(true, false, timing)));
}

TEST(Emulator, ReportsADeadlock) {
  const std::string fault = fault_of([] {
    if (arch::thread_index() == 0) arch::barrier_init(tile().ready, 2);
    arch::sync_block();
    if (arch::thread_index() == 0) arch::barrier_arrive(tile().ready);
    if (arch::thread_index() < 32) arch::barrier_wait(tile().ready, 0);
  });
  EXPECT_NE(fault.find("deadlock"), std::string::npos) << fault;
  EXPECT_NE(fault.find("threads 0..31: wait for the barrier"), std::string::npos) << fault;
}

TEST(Emulator, ReportsAnOverwrittenOperand) {
  const std::string fault = fault_of([] {
    if (arch::thread_index() == 0) {
      arch::barrier_init(tile().ready, 1);
      arch::barrier_arrive_and_expect(tile().ready, 8192);
    }
    float s[32] = {};
    bsk::tile::issue_qk<arch::Element::kFloat16, 64, 64, 64>(s, tile().a, tile().b);
    arch::sync_block();
    load(tile().b);
    arch::mma_wait<0>();
  });
  EXPECT_NE(fault.find("overwrites what an unfinished multiply reads"), std::string::npos) << fault;
}

TEST(Emulator, ReportsAMissingFence) {
  const std::string fault = fault_of([] {
    float s[32] = {};
    arch::mma_shared<arch::Element::kFloat16, 64>(s, 0, 0, false);
  });
  EXPECT_NE(fault.find("mma_fence"), std::string::npos) << fault;
}

TEST(Emulator, ReportsTooManyArrivals) {
  const std::string fault = fault_of([] {
    if (arch::thread_index() != 0) return;
    arch::barrier_init(tile().ready, 1);
    arch::barrier_arrive_and_expect(tile().ready, 16);
    arch::barrier_arrive(tile().ready);
  });
  EXPECT_NE(fault.find("more arrivals"), std::string::npos) << fault;
}

TEST(Emulator, ReportsACopyThatBeginsBetweenMultiplesOf16Bytes) {
  const auto from_column = [](int column) {
    return fault_of([column] {
      if (arch::thread_index() != 0) return;
      arch::barrier_init(tile().ready, 1);
      arch::barrier_arrive_and_expect(tile().ready, 8192);
      arch::load_tile(encode(ones()), tile().ready, tile().a, column, 0, 0, 0,
                      arch::CacheHint::kNormal);
      arch::barrier_wait(tile().ready, 0);
    });
  };
  for (const int column : {-8, 0, 8, 56, 64}) EXPECT_EQ(from_column(column), "");
  for (const int column : {-4, 1, 4, 60}) {
    EXPECT_NE(from_column(column).find("not a multiple of 16 bytes"), std::string::npos);
  }
}

// Of 16 bytes, by each thread; some arrive before they are done, if `waits` does not hold.
std::vector<float> small_copies(bool waits, Timing timing) {
  static std::vector<float> read;
  alignas(16) static float data[128][4];
  read.assign(128, 0.0f);
  machine().launch(1, 128, sizeof(Tile), timing, [=] {
    const int thread = arch::thread_index();
    data[thread][3] = static_cast<float>(thread);
    if (thread == 0) arch::barrier_init(tile().ready, 128);
    arch::sync_block();
    arch::copy_16_bytes(arch::shared_address(tile().a) + 16 * thread, data[thread]);
    if (waits) {
      arch::barrier_arrive_after_copies(tile().ready);
    } else {
      arch::barrier_arrive(tile().ready);
    }
    arch::barrier_wait(tile().ready, 0);
    read[thread] = reinterpret_cast<const float*>(tile().a)[4 * thread + 3];
    arch::wait_for_copies();
  });
  return read;
}

TEST(Emulator, LetsAThreadArriveAfterItsCopies) {
  for (const Timing timing : kTimings) EXPECT_EQ(small_copies(true, timing)[77], 77.0f);
}

TEST(Emulator, ShowsAnArrivalBeforeTheCopies) {
  for (const Timing timing : kTimings) EXPECT_TRUE(std::isnan(small_copies(false, timing)[77]));
}

TEST(Emulator, ReportsACopyThatNothingWaitsFor) {
  EXPECT_NE(fault_of([] {
              arch::copy_16_bytes(arch::shared_address(tile().a), ones().base);
            }).find("ended while a copy"),
            std::string::npos);
}

// Two clusters of two CTAs; each CTA shows a number and reads its neighbour's. `waits` tells
// whether between the two, `stays` whether until both have read.
std::vector<float> neighbours(bool waits, bool stays) {
  static std::vector<float> seen;
  seen.assign(4, 0.0f);
  machine().launch(
      4, 64, 4096, kEverythingLate,
      [=] {
        auto* const shown = static_cast<float*>(arch::shared_memory());
        const int rank = arch::cluster_rank();
        // One CTA is late: to show its number, or to read.
        for (int i = 0; i < 4 && rank == (waits ? 1 : 0); ++i) arch::sync_block();
        if (arch::thread_index() == 0) shown[2] = static_cast<float>(10 + arch::block_index());
        if (waits) arch::sync_cluster();
        for (int i = 0; i < 4 && waits && rank == 1; ++i) arch::sync_block();
        float values[2];
        arch::load_from_rank(values, shown + 2, 1 - rank);
        if (arch::thread_index() == 7) seen[arch::block_index()] = values[0];
        if (stays) arch::sync_cluster();
      },
      2);
  return seen;
}

TEST(Emulator, LetsACtaReadTheOthersOfItsCluster) {
  EXPECT_EQ(neighbours(true, true), (std::vector<float>{11, 10, 13, 12}));
}

TEST(Emulator, ShowsAMissingWaitForTheCluster) {
  EXPECT_TRUE(std::isnan(neighbours(false, true)[1]));
}

TEST(Emulator, ReportsAReadOfACtaThatHasEnded) {
  try {
    neighbours(true, false);
    ADD_FAILURE() << "no fault";
  } catch (const Fault& fault) {
    EXPECT_NE(std::string(fault.what()).find("a CTA that has ended"), std::string::npos);
  }
}

}  // namespace
}  // namespace bsk::emulation
