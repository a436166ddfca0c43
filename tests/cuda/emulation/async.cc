// The copy engine and the warpgroup multiply.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/cuda/emulation/machine.h"

namespace bsk::emulation {
namespace {

// PTX ISA, "swizzling modes": 16-byte units are exchanged by the address bits from bit 7 on.
uint32_t swizzle(uint32_t address, int width_bytes) {
  const uint32_t mask = static_cast<uint32_t>(width_bytes / 16 - 1);
  return address ^ (((address >> 7) & mask) << 4);
}

struct Matrix {  // a decoded descriptor (PTX ISA 9.7.15.5.1)
  uint32_t start, leading_bytes, stride_bytes;
  int width_bytes;
  explicit Matrix(uint64_t descriptor)
      : start(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        leading_bytes(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        stride_bytes(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4) {
    const int code = static_cast<int>(descriptor >> 62);
    width_bytes = code == 1 ? 128 : code == 2 ? 64 : code == 3 ? 32 : 16;
  }
  // Contiguous K: rows of M or N in groups of eight.
  uint32_t k_major(int row, int k) const {
    return swizzle(start + row / 8 * stride_bytes + row % 8 * width_bytes + k * 2, width_bytes);
  }
  // Contiguous N: chunks of `width` columns, K in groups of eight.
  uint32_t n_major(int n, int k) const {
    const int chunk = width_bytes / 2;
    return swizzle(start + n / chunk * leading_bytes + k / 8 * stride_bytes + k % 8 * width_bytes +
                       n % chunk * 2,
                   width_bytes);
  }
};

float float16(uint16_t bits) {
  static const std::vector<float> table = [] {
    std::vector<float> values(65536);
    for (int i = 0; i < 65536; ++i) {
      const int exponent = i >> 10 & 31, mantissa = i & 1023;
      const float magnitude = exponent == 31 ? (mantissa ? std::numeric_limits<float>::quiet_NaN()
                                                         : std::numeric_limits<float>::infinity())
                              : exponent == 0
                                  ? std::ldexp(static_cast<float>(mantissa), -24)
                                  : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
      values[i] = i & 0x8000 ? -magnitude : magnitude;
    }
    return values;
  }();
  return table[bits];
}

float to_float(uint16_t bits, arch::Element type) {
  if (type == arch::Element::kFloat16) return float16(bits);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Register i of thread t of the warpgroup holds this element of D.
int row_of(int thread, int i) { return thread / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8; }
int column_of(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

}  // namespace

arch::TensorMap encode(const TensorMapContents& contents) {
  TensorMapContents complete = contents;
  for (int i = 0; i < 5; ++i) {
    if (complete.size[i] == 0) complete.size[i] = complete.box[i] = 1;
  }
  arch::TensorMap map{};
  static_assert(sizeof complete <= sizeof map);
  std::memcpy(&map, &complete, sizeof complete);
  return map;
}

void Machine::load_tile(const Copy& request) {
  Copy copy = request;
  TensorMapContents map;
  std::memcpy(&map, &copy.map, sizeof map);
  copy.bytes = map.element_bytes;
  for (const int32_t size : map.box) copy.bytes *= size;
  copy.cta = &cta();
  const uint32_t begin = shared_address(copy.destination), end = begin + copy.bytes;
  if (begin % 128 != 0) fault("a copy's destination is not 128-byte aligned");
  if (end > static_cast<uint32_t>(shared_bytes_)) fault("a copy ends beyond shared memory");
  for (Warpgroup& group : cta().warpgroups) {
    for (const Multiply& multiply : group.multiplies) {
      if (multiply.done) continue;
      const uint32_t b = Matrix(multiply.b_descriptor).start;
      const uint32_t a = Matrix(multiply.a_descriptor).start;
      if ((b >= begin && b < end) || (!multiply.a_in_registers && a >= begin && a < end)) {
        fault("a copy overwrites what an unfinished multiply reads");
      }
    }
  }
  // Measured on an H100: an illegal instruction.
  if (copy.coordinate[0] * map.element_bytes % 16 != 0) {
    fault("a copy begins at column " + std::to_string(copy.coordinate[0]) +
          ", which is not a multiple of 16 bytes");
  }
  std::memset(copy.destination, 0xff, copy.bytes);
  if (timing_.late_copy) {
    tile_copies_.emplace_back([this, copy] { perform(copy); });
  } else {
    perform(copy);
  }
}

void Machine::copy_16_bytes(uint32_t destination, const void* source) {
  if (destination % 16 != 0 || reinterpret_cast<uint64_t>(source) % 16 != 0) {
    fault("a copy of 16 bytes is not 16-byte aligned");
  }
  if (destination + 16 > static_cast<uint32_t>(shared_bytes_)) {
    fault("a copy ends beyond shared memory");
  }
  std::memset(shared() + destination, 0xff, 16);
  current_->small_copies.push_back({shared() + destination, source});
}

void Machine::arrive_after_copies(uint64_t* barrier) {
  Fiber& fiber = *current_;
  ++fiber.arrivals_to_come;
  const auto arrive = [&fiber, copies = std::move(fiber.small_copies), &state = state_of(barrier)] {
    for (const SmallCopy& copy : copies) std::memcpy(copy.destination, copy.source, 16);
    --fiber.arrivals_to_come;
    --state.pending;
    advance_phase(state);
  };
  fiber.small_copies.clear();
  if (timing_.late_copy) {
    small_copies_.emplace_back(arrive);
  } else {
    arrive();
  }
}

void Machine::wait_for_copies() {
  Fiber& fiber = *current_;
  for (const SmallCopy& copy : fiber.small_copies) std::memcpy(copy.destination, copy.source, 16);
  fiber.small_copies.clear();
  wait_until([&fiber] { return fiber.arrivals_to_come == 0; }, "its copies of 16 bytes",
             fiber.thread);
}

void Machine::perform(const Copy& copy) {
  TensorMapContents map;
  std::memcpy(&map, &copy.map, sizeof map);
  std::byte* const shared = copy.cta->shared;
  const auto begin = static_cast<uint32_t>(copy.destination - shared);
  const int element = map.element_bytes, columns = map.box[0], width_bytes = columns * element;
  for (int index = 0; index < copy.bytes / element; ++index) {
    bool inside = true;
    const std::byte* from = map.base;
    for (int i = 0, rest = index; i < 5; rest /= map.box[i++]) {
      const int64_t at = copy.coordinate[i] + rest % map.box[i];
      inside = inside && at >= 0 && at < map.size[i];
      from += at * (i == 0 ? element : map.stride_bytes[i - 1]);
    }
    const uint32_t address =
        swizzle(begin + index / columns * width_bytes + index % columns * element, width_bytes);
    if (inside) {
      std::memcpy(shared + address, from, element);
    } else {
      std::memset(shared + address, 0, element);
    }
  }
  BarrierState& state = barriers_.at(copy.barrier);
  state.pending_bytes -= copy.bytes;
  advance_phase(state);
}

float Machine::element(uint32_t address, arch::Element type) const {
  uint16_t bits;
  std::memcpy(&bits, shared() + address, 2);
  return to_float(bits, type);
}

void Machine::mma_issue(const Multiply& request, float* d, const uint32_t* a) {
  Fiber& fiber = *current_;
  Warpgroup& group = warpgroup();
  const int thread = fiber.thread % arch::kWarpgroupThreads;
  if (fiber.needs_mma_fence) fault("a multiply without mma_fence after its registers were used");
  const int64_t number = fiber.issued++;
  // Earlier multiplies that this thread has not waited for; the others only linger until all have.
  const int64_t unretired = fiber.retired == 0 ? 0 : group.group_ends[fiber.retired - 1];
  if (number == group.first + static_cast<int64_t>(group.multiplies.size())) {
    Multiply multiply = request;
    for (int64_t i = unretired; i < number; ++i) {  // the same registers: one chain
      const Multiply& earlier = group.multiplies[i - group.first];
      if (earlier.d[thread] == d) multiply.accumulator = earlier.accumulator;
    }
    if (!multiply.accumulator) {
      multiply.accumulator = std::make_shared<Accumulator>();
      multiply.accumulator->columns = request.columns;
      multiply.accumulator->values.resize(64 * request.columns);
    }
    group.multiplies.push_back(std::move(multiply));
  }
  Multiply& multiply = group.multiplies[number - group.first];
  if (multiply.b_descriptor != request.b_descriptor || multiply.columns != request.columns ||
      multiply.a_descriptor != request.a_descriptor || multiply.accumulate != request.accumulate) {
    fault("the threads of a warpgroup issue different multiplies");
  }
  multiply.d[thread] = d;
  multiply.a[thread] = a;
  const bool chained = std::any_of(group.multiplies.begin() + (unretired - group.first),
                                   group.multiplies.begin() + (number - group.first),
                                   [&](const Multiply& earlier) { return earlier.d[thread] == d; });
  if (!chained) {
    for (int i = 0; i < multiply.columns / 2; ++i) {
      multiply.accumulator->values[row_of(thread, i) * multiply.columns + column_of(thread, i)] =
          d[i];
      d[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  if (++multiply.issued == arch::kWarpgroupThreads && !timing_.late_multiply) {
    perform(multiply);
    ++group.executed;
  }
}

void Machine::commit(Warpgroup& group, Fiber& fiber) {
  if (fiber.committed == static_cast<int64_t>(group.group_ends.size())) {
    group.group_ends.push_back(fiber.issued);
  }
  if (group.group_ends[fiber.committed++] != fiber.issued) {
    fault("the threads of a warpgroup commit different multiplies");
  }
}

void Machine::mma_wait(int pending_groups) {
  Fiber& fiber = *current_;
  Warpgroup& group = warpgroup();
  fiber.needs_mma_fence = true;
  ++fiber.waits_reached;
  const int64_t retired = fiber.committed - pending_groups;
  if (retired <= fiber.retired) return;
  const int64_t end = group.group_ends[retired - 1];
  wait_until(
      [first = warpgroup_fibers(), reached = fiber.waits_reached] {
        return std::all_of(first, first + arch::kWarpgroupThreads,
                           [=](const Fiber& f) { return f.waits_reached >= reached; });
      },
      "its warpgroup's multiply", fiber.thread / arch::kWarpgroupThreads);
  for (; group.executed < end; ++group.executed) {
    perform(group.multiplies[group.executed - group.first]);
  }
  retire(group, fiber, end);
  fiber.retired = retired;
}

// Gives the thread its registers back, unless a later multiply still owns them.
void Machine::retire(Warpgroup& group, Fiber& fiber, int64_t end) {
  const int thread = fiber.thread % arch::kWarpgroupThreads;
  const int64_t begin = fiber.retired == 0 ? 0 : group.group_ends[fiber.retired - 1];
  for (int64_t number = begin; number < end; ++number) {
    Multiply& multiply = group.multiplies[number - group.first];
    bool owned_later = false;
    for (int64_t later = number + 1; later < fiber.issued; ++later) {
      owned_later |= group.multiplies[later - group.first].d[thread] == multiply.d[thread];
    }
    if (owned_later) continue;
    for (int i = 0; i < multiply.columns / 2; ++i) {
      multiply.d[thread][i] =
          multiply.accumulator->values[row_of(thread, i) * multiply.columns + column_of(thread, i)];
    }
  }
  // Drop what every thread has retired.
  const Fiber* const first = warpgroup_fibers();
  int64_t all_retired = end;
  fiber.retired = std::max<int64_t>(fiber.retired, 0);
  for (int i = 0; i < arch::kWarpgroupThreads; ++i) {
    const int64_t groups = first + i == &fiber ? -1 : first[i].retired;
    if (groups >= 0) {
      all_retired = std::min(all_retired, groups == 0 ? 0 : group.group_ends[groups - 1]);
    }
  }
  while (group.first < all_retired) {
    group.multiplies.pop_front();
    ++group.first;
  }
}

void Machine::perform(Multiply& multiply) {
  ++multiplies_run;
  multiply.done = true;
  const int columns = multiply.columns;
  const Matrix a(multiply.a_descriptor), b(multiply.b_descriptor);
  std::vector<float>& sums = multiply.accumulator->values;
  static float left[64][16], right[16][256];
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < columns; ++n) {
      right[k][n] =
          element(multiply.a_in_registers ? b.n_major(n, k) : b.k_major(n, k), multiply.element);
    }
  }
  if (multiply.a_in_registers) {
    for (int thread = 0; thread < arch::kWarpgroupThreads; ++thread) {
      for (int i = 0; i < 8; ++i) {  // four registers of two elements
        const uint32_t word = multiply.a[thread][i / 2];
        left[row_of(thread, i)][column_of(thread, i)] =
            to_float(static_cast<uint16_t>(i % 2 ? word >> 16 : word), multiply.element);
      }
    }
  } else {
    for (int row = 0; row < 64; ++row) {
      for (int k = 0; k < 16; ++k) left[row][k] = element(a.k_major(row, k), multiply.element);
    }
  }
  for (int row = 0; row < 64; ++row) {
    float* const out = &sums[row * columns];
    if (!multiply.accumulate) std::fill(out, out + columns, 0.0f);
    for (int k = 0; k < 16; ++k) {
      const float factor = left[row][k];
      for (int n = 0; n < columns; ++n) out[n] += factor * right[k][n];
    }
  }
}

}  // namespace bsk::emulation
