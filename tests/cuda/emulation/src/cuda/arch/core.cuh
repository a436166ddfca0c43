// The emulated instructions of src/cuda/arch/core.cuh.
#pragma once

#include <bit>
#include <cstring>

#include "src/cuda/arch/types.h"
#include "tests/cuda/emulation/machine.h"

namespace bsk::arch {

inline int thread_index() { return emulation::machine().thread(); }
inline int block_index() { return emulation::machine().block(); }
inline int block_index_y() { return emulation::machine().block_y(); }
inline void* shared_memory() { return emulation::machine().shared(); }
inline uint32_t shared_address(const void* pointer) {
  return emulation::machine().shared_address(pointer);
}
inline void load_matrices(const void* row, uint32_t (&pairs)[4]) {
  const int lane = thread_index() % kWarpThreads;
  for (int i = 0; i < 4; ++i) {
    const uint64_t from = reinterpret_cast<uint64_t>(row);
    const uint64_t source = emulation::machine().exchange(from, 8 * i + lane / 4);
    std::memcpy(&pairs[i], reinterpret_cast<const uint8_t*>(source) + lane % 4 * 4, 4);
  }
}
inline void store_matrices(void* row, const uint32_t (&pairs)[4]) {
  const int lane = thread_index() % kWarpThreads;
  for (int i = 0; i < 4; ++i) {
    const uint64_t to = reinterpret_cast<uint64_t>(row);
    const uint64_t target = emulation::machine().exchange(to, 8 * i + lane / 4);
    std::memcpy(reinterpret_cast<uint8_t*>(target) + lane % 4 * 4, &pairs[i], 4);
  }
}
inline uint32_t in_register(uint32_t value) { return value; }
inline void copy_16_bytes(uint32_t destination, const void* source) {
  emulation::machine().copy_16_bytes(destination, source);
}
inline void wait_for_copies() { emulation::machine().wait_for_copies(); }
inline void sync_block() { emulation::machine().sync(0, 0); }

template <class T>
T shuffle(T value, int lane) {
  uint64_t bits = 0;
  static_assert(sizeof value <= 8);
  std::memcpy(&bits, &value, sizeof value);
  bits = emulation::machine().exchange(bits, lane);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T shuffle_xor(T value, int lane_mask) {
  return shuffle(value, (thread_index() % kWarpThreads) ^ lane_mask);
}
inline bool elect_one() { return emulation::machine().thread() % kWarpThreads == 0; }
inline bool warp_any(bool predicate) { return emulation::machine().any(predicate); }
inline uint32_t ballot(bool predicate) { return emulation::machine().ballot(predicate); }
template <class Combine>
uint32_t combine_warp(uint32_t value, Combine combine) {
  for (int distance = 1; distance < kWarpThreads; distance *= 2) {
    value = combine(value, shuffle_xor(value, distance));
  }
  return value;
}
inline uint32_t warp_sum(uint32_t value) {
  return combine_warp(value, [](uint32_t a, uint32_t b) { return a + b; });
}
inline uint32_t warp_minimum(uint32_t value) {
  return combine_warp(value, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
}
inline uint32_t warp_maximum(uint32_t value) {
  return combine_warp(value, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
}
inline int population_count(uint32_t bits) { return std::popcount(bits); }
inline int leading_zeros(uint32_t bits) { return std::countl_zero(bits); }
inline void atomic_or(uint32_t& word, uint32_t bits) { word |= bits; }
inline void fail_assertion(const char* message) { emulation::machine().fault(message); }
inline void sync_warp() { shuffle(0, 0); }
inline void load_matrices_transposed(const void* row, uint32_t (&pairs)[4]) {
  const auto rows = emulation::machine().gather(reinterpret_cast<uint64_t>(row));
  const int lane = thread_index() % kWarpThreads;
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int j = 0; j < 2; ++j) {
      const auto* const source = reinterpret_cast<const uint16_t*>(rows[8 * i + lane % 4 * 2 + j]);
      pair[j] = source[lane / 4];
    }
    std::memcpy(&pairs[i], pair, 4);
  }
  sync_warp();  // what is there stays until all lanes have it
}

template <int kRegisters>
void increase_registers() {}
template <int kRegisters>
void decrease_registers() {}
template <int kCount>
void do_nothing() {}
inline void wait_for_previous_grid() {}
inline void let_next_grid_start() {}
inline void fence_async_proxy() {}
inline void fence_barrier_init() {}

}  // namespace bsk::arch
