// A [batch, heads, rows, columns] tensor for tests. Everything around its valid elements (before,
// after, and between rows where the placement leaves gaps) is NaN, so that a kernel that reads
// outside shows it, and can be checked to be untouched, so that one that writes outside does too.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "bsk/attention.h"

namespace bsk {

enum class Placement {
  kTight,      // contiguous, nothing around it: an address sanitizer sees every step outside
  kHalo,       // contiguous, NaN on both sides
  kPaddedRow,  // rows wider than the tensor
  kBshd,       // the [batch, heads, rows, columns] view of a [batch, rows, heads, columns] tensor
};

class HaloTensor {
 public:
  HaloTensor() = default;

  HaloTensor(DataType dtype, std::array<int64_t, 4> shape, Placement placement) {
    layout_ = contiguous(dtype, shape);
    const auto [batch, heads, rows, columns] = shape;
    if (placement == Placement::kPaddedRow) {
      const int64_t width = columns + 5;
      layout_.stride = {heads * rows * width, rows * width, width, 1};
    } else if (placement == Placement::kBshd) {
      layout_.stride = {rows * heads * columns, columns, heads * columns, 1};
    }
    const int64_t around = placement == Placement::kTight ? 0 : 37;
    int64_t last = 0;
    for (int i = 0; i < 4; ++i) last += (shape[i] - 1) * layout_.stride[i];
    const int64_t used = batch * heads * rows * columns == 0 ? 0 : last + 1;
    first_ = around;
    const auto elements = static_cast<size_t>(used + 2 * around);
    bytes_.assign(elements * static_cast<size_t>(bytes_per_element(dtype)), 0xff);
    valid_.assign(elements, 0);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < columns; ++c) valid_[index(b, h, r, c)] = 1;
        }
      }
    }
  }

  const TensorLayout& layout() const { return layout_; }
  void* data() { return bytes_.data() + first_ * bytes_per_element(layout_.dtype); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  void forget() { bytes_.assign(bytes_.size(), 0xff); }  // the state before anything was written

  // The view with two dimensions exchanged.
  void swap_dimensions(size_t a, size_t b) {
    std::swap(layout_.shape[a], layout_.shape[b]);
    std::swap(layout_.stride[a], layout_.stride[b]);
  }

  double get(int64_t b, int64_t h, int64_t r, int64_t c) const {
    const size_t i = index(b, h, r, c);
    switch (layout_.dtype) {
      case DataType::kFloat64: return read<double>(i);
      case DataType::kFloat32: return read<float>(i);
      case DataType::kFloat16: return static_cast<double>(read<_Float16>(i));
      case DataType::kBFloat16: return bfloat16_value(read<uint16_t>(i));
      case DataType::kBool: return bytes_[i];
    }
    return 0.0;
  }

  void set(int64_t b, int64_t h, int64_t r, int64_t c, double value) {
    const size_t i = index(b, h, r, c);
    switch (layout_.dtype) {
      case DataType::kFloat64: return write(i, value);
      case DataType::kFloat32: return write(i, static_cast<float>(value));
      case DataType::kFloat16: return write(i, static_cast<_Float16>(value));
      case DataType::kBFloat16: return write(i, bfloat16_bits(static_cast<float>(value)));
      case DataType::kBool: bytes_[i] = value != 0.0; return;
    }
  }

  bool halo_untouched() const {
    const size_t size = bytes_.size() / std::max<size_t>(1, valid_.size());
    for (size_t i = 0; i < valid_.size(); ++i) {
      for (size_t b = 0; valid_[i] == 0 && b < size; ++b) {
        if (bytes_[i * size + b] != 0xff) return false;
      }
    }
    return true;
  }

 private:
  size_t index(int64_t b, int64_t h, int64_t r, int64_t c) const {
    return static_cast<size_t>(first_ + b * layout_.stride[0] + h * layout_.stride[1] +
                               r * layout_.stride[2] + c * layout_.stride[3]);
  }

  template <typename T>
  T read(size_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + i * sizeof(T), sizeof(T));
    return value;
  }

  template <typename T>
  void write(size_t i, T value) {
    std::memcpy(bytes_.data() + i * sizeof(T), &value, sizeof(T));
  }

  static double bfloat16_value(uint16_t bits) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
  }

  static uint16_t bfloat16_bits(float value) {  // not for NaN
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (std::isnan(value)) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }

  TensorLayout layout_;
  int64_t first_ = 0;
  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> valid_;  // per element
};

// The distance between neighbouring numbers of that dtype at `value`.
inline double spacing(DataType dtype, double value) {
  int mantissa_bits = 23, smallest_exponent = -126;
  if (dtype == DataType::kFloat64) mantissa_bits = 52, smallest_exponent = -1022;
  if (dtype == DataType::kFloat16) mantissa_bits = 10, smallest_exponent = -14;
  if (dtype == DataType::kBFloat16) mantissa_bits = 7;
  if (value == 0.0) return std::ldexp(1.0, smallest_exponent - mantissa_bits);
  return std::ldexp(1.0, std::max(std::ilogb(value), smallest_exponent) - mantissa_bits);
}

}  // namespace bsk
