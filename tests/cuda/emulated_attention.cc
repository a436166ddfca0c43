#include "tests/cuda/emulated_attention.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <random>

#include "src/cpu/kernels.h"
#include "tests/cuda/emulation/src/cuda/arch/numerics.cuh"

namespace bsk::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint16_t kNaNBits = 0x7fff;
constexpr int64_t kGap = 8;  // columns of NaN between rows

uint16_t to_bits(float x, DataType dtype) {
  return dtype == DataType::kFloat16 ? arch::float_to_half(x) : arch::float_to_bfloat16(x);
}
float from_bits(uint16_t bits, DataType dtype) {
  return dtype == DataType::kFloat16 ? arch::half_to_float(bits) : arch::bfloat16_to_float(bits);
}

// [batch, rows, heads, columns] in memory: what a transposed view of a projection looks like.
TensorLayout strided(DataType dtype, std::array<int64_t, 4> shape) {
  TensorLayout layout = contiguous(dtype, shape);
  const int64_t row = shape[1] * (shape[3] + kGap);
  layout.stride = {shape[2] * row, shape[3] + kGap, row, 1};
  layout.device = DeviceType::kCuda;
  return layout;
}

void fill(std::vector<uint16_t>& data, const TensorLayout& t, std::mt19937& random) {
  data.assign(static_cast<size_t>(t.shape[0] * t.stride[0] + 64), kNaNBits);
  std::normal_distribution<float> normal;
  for (int64_t b = 0; b < t.shape[0]; ++b)
    for (int64_t h = 0; h < t.shape[1]; ++h)
      for (int64_t i = 0; i < t.shape[2]; ++i)
        for (int64_t d = 0; d < t.shape[3]; ++d)
          data[static_cast<size_t>(b * t.stride[0] + h * t.stride[1] + i * t.stride[2] + d)] =
              to_bits(normal(random), t.dtype);
}

int64_t blocks_of(int64_t length, int64_t block) { return (length + block - 1) / block; }

}  // namespace

GuardedBytes::GuardedBytes(const std::vector<uint8_t>& bytes, Guard guard) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t units = (bytes.size() + 15) / 16 * 16, between = (units + page - 1) / page * page;
  size_ = between + 2 * page;
  void* const pages = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  pages_ = static_cast<uint8_t*>(pages);
  if (mprotect(pages_ + page, between, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  data_ = pages_ + page + (guard == Guard::kBehind ? between - units : 0);
  std::memset(data_, 0xff, units);
  std::copy(bytes.begin(), bytes.end(), data_);
}
GuardedBytes& GuardedBytes::operator=(GuardedBytes&& other) noexcept {
  std::swap(pages_, other.pages_);
  std::swap(size_, other.size_);
  std::swap(data_, other.data_);
  return *this;
}
GuardedBytes::~GuardedBytes() {
  if (pages_ != nullptr) munmap(pages_, size_);
}

Tensors::Tensors(const Case& c) {
  std::mt19937 random(static_cast<unsigned>(std::hash<std::string>()(c.name)));
  AttentionProblem& p = problem;
  p = dense_problem(c.dtype, c.batch, c.q_heads, c.kv_heads, c.q_len, c.kv_len, c.head_dim,
                    c.v_head_dim);
  p.q = strided(c.dtype, p.q.shape);
  p.k = strided(c.dtype, p.k.shape);
  p.v = strided(c.dtype, p.v.shape);
  p.out = strided(c.dtype, p.out.shape);
  fill(q_, p.q, random);
  fill(k_, p.k, random);
  fill(v_, p.v, random);
  if (c.nan_query) q_[static_cast<size_t>(p.q.stride[2] * (c.q_len / 2) + 3)] = kNaNBits;
  if (c.infinite_key) {
    k_[static_cast<size_t>(p.k.stride[2] * (c.kv_len / 2))] = to_bits(kInfinity, c.dtype);
  }
  if (c.repeat_kv_batch) p.k.stride[0] = p.v.stride[0] = 0;
  poison_output();
  if (c.scale == kZeroScale) {
    p.scale = 0.0;
  } else if (c.scale != 0.0) {
    p.scale = c.scale;
  }
  p.softcap = c.softcap;
  p.causal = c.causal;
  p.window_left = c.window_left;
  p.window_right = c.window_right;
  p.return_lse = true;
  lse_.assign(static_cast<size_t>(c.batch * c.q_heads * c.q_len), kNaN);

  if (c.mask_kind != MaskKind::kNone) {
    p.mask_kind = c.mask_kind;
    p.mask = contiguous(c.mask_dtype,
                        {c.mask_shape[0], c.mask_shape[1], c.mask_shape[2], c.mask_shape[3]});
    for (int i = 0; i < 3; ++i) p.mask.stride[i] += p.mask.stride[i] / c.mask_shape[3] * c.mask_gap;
    const int64_t count = p.mask.shape[0] * p.mask.stride[0] - c.mask_gap;
    std::vector<uint8_t> bytes;
    std::normal_distribution<float> normal;
    for (int64_t i = -c.mask_shift; i < count; ++i) {
      float bias = random() % 8 == 0 ? -kInfinity : 2.0f * normal(random);
      const int64_t row = i / p.mask.stride[2] % c.mask_shape[2], key = i % p.mask.stride[2];
      bias += c.mask_slope * static_cast<float>(key);
      if (key < row * c.mask_hides) bias = -kInfinity;
      const uint16_t bits = to_bits(bias, c.mask_dtype);
      switch (c.mask_dtype) {
        case DataType::kBool:
          bytes.push_back(c.kept.empty() || i < 0 ? random() % 4 != 0
                                                  : i % c.kv_len < c.kept[i / p.mask.stride[0]]);
          break;
        case DataType::kFloat32:
          bytes.insert(bytes.end(), reinterpret_cast<const uint8_t*>(&bias),
                       reinterpret_cast<const uint8_t*>(&bias) + 4);
          break;
        default:
          bytes.insert(bytes.end(), reinterpret_cast<const uint8_t*>(&bits),
                       reinterpret_cast<const uint8_t*>(&bits) + 2);
      }
    }
    if (c.mask_transposed) {
      p.mask.stride[2] = 1;
      p.mask.stride[3] = p.mask.shape[2];
    }
    const int64_t whole[] = {c.batch, c.q_heads, c.q_len, c.kv_len};
    for (int i = 0; c.mask_expanded && i < 4; ++i) {
      if (p.mask.shape[i] == 1) p.mask.stride[i] = 0;
      p.mask.shape[i] = whole[i];
    }
    mask_ = GuardedBytes(
        bytes, random() % 2 == 0 ? GuardedBytes::Guard::kInFront : GuardedBytes::Guard::kBehind);
    buffers.mask = mask_.data() + c.mask_shift * bytes_per_element(c.mask_dtype);
    p.mask.address_alignment = address_alignment(buffers.mask);
  }

  if (c.block_q > 0) {
    BlockMaskLayout& m = p.block_mask;
    const int64_t q_blocks = blocks_of(c.q_len, c.block_q),
                  k_blocks = blocks_of(c.kv_len, c.block_k);
    m = {true, c.block_q, c.block_k, c.batch, c.mask_heads, q_blocks, k_blocks + 1, k_blocks};
    const int64_t rows = c.batch * c.mask_heads * q_blocks;
    full_indices_.assign(static_cast<size_t>(rows * m.full_width), -7);
    partial_indices_.assign(static_cast<size_t>(rows * m.partial_width), -7);
    partial_bits_.resize(static_cast<size_t>(rows * m.partial_width * c.block_q * (c.block_k / 8)));
    for (uint8_t& byte : partial_bits_) byte = static_cast<uint8_t>(random());
    for (int64_t row = 0; row < rows; ++row) {
      int32_t full = 0, partial = 0;
      for (int32_t block = 0; block < k_blocks; ++block) {
        const double draw = std::uniform_real_distribution<double>()(random);
        if (draw < c.full_density) {
          full_indices_[static_cast<size_t>(row * m.full_width + full++)] = block;
        } else if (draw < c.full_density + c.partial_density) {
          partial_indices_[static_cast<size_t>(row * m.partial_width + partial++)] = block;
        }
      }
      full_counts_.push_back(full);
      partial_counts_.push_back(partial);
    }
    buffers.block_mask = {full_counts_.data(), full_indices_.data(), partial_counts_.data(),
                          partial_indices_.data(), partial_bits_.data()};
  }
  buffers.q = q_.data();
  buffers.k = k_.data();
  buffers.v = v_.data();
  buffers.out = out_.data();
  buffers.lse = lse_.data();
}

void Tensors::poison_output() {
  out_.assign(static_cast<size_t>(problem.out.shape[0] * problem.out.stride[0] + 64), kNaNBits);
  buffers.out = out_.data();
}

void expect_matches(const Case& c, const Tensors& tensors) {
  const AttentionProblem& p = tensors.problem;
  AttentionProblem reference = p;
  reference.out = contiguous(DataType::kFloat64, p.out.shape);
  std::vector<double> expected(
      static_cast<size_t>(p.out.shape[0] * p.out.shape[1] * p.out.shape[2] * p.out.shape[3]));
  std::vector<float> expected_lse(tensors.lse_.size());
  AttentionBuffers buffers = tensors.buffers;
  buffers.out = expected.data();
  buffers.lse = expected_lse.data();
  kCpuReference.prepare(reference, {})->launch(buffers);

  // Rounding of weights and of the result; values are of order 1.
  const double spacing = c.dtype == DataType::kFloat16 ? 1.0 / 1024 : 1.0 / 128;
  std::vector<bool> written(tensors.out_.size(), false);
  int64_t reported = 0;
  for (int64_t b = 0; b < p.batch(); ++b)
    for (int64_t h = 0; h < p.q_heads(); ++h)
      for (int64_t i = 0; i < p.q_len(); ++i)
        for (int64_t d = 0; d < p.v_head_dim(); ++d) {
          const auto at = static_cast<size_t>(b * p.out.stride[0] + h * p.out.stride[1] +
                                              i * p.out.stride[2] + d);
          written[at] = true;
          const double got = from_bits(tensors.out_[at], c.dtype);
          const double want = expected[static_cast<size_t>(
              ((b * p.q_heads() + h) * p.q_len() + i) * p.v_head_dim() + d)];
          const double error = std::fabs(got - want) / (1.0 + std::fabs(want));
          const bool fine = std::isnan(want) ? std::isnan(got) : error <= 1.5 * spacing;
          if (!fine && reported++ < 5) {
            ADD_FAILURE() << c.name << ": out[" << b << ", " << h << ", " << i << ", " << d
                          << "] is " << got << ", should be " << want;
          }
        }
  EXPECT_EQ(reported, 0) << c.name << ": " << reported << " wrong elements";
  for (size_t at = 0; at < written.size(); ++at) {
    if (!written[at]) {
      ASSERT_EQ(tensors.out_[at], kNaNBits) << c.name << ": wrote outside the output";
    }
  }
  for (size_t i = 0; i < expected_lse.size(); ++i) {
    const float got = tensors.lse_[i], want = expected_lse[i];
    if (std::isfinite(want)) {
      ASSERT_NEAR(got, want, 2e-5 * (1.0 + std::fabs(want))) << c.name << ": lse[" << i << "]";
    } else {
      ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : got == want)
          << c.name << ": lse[" << i << "] is " << got << ", should be " << want;
    }
  }
}

arch::TensorMap encode_for_emulator(const cuda::TensorMapSpec& spec, const void* address) {
  emulation::TensorMapContents contents{};
  contents.base = static_cast<const std::byte*>(address);
  for (int i = 0; i < spec.rank; ++i) {
    contents.size[i] = static_cast<int32_t>(spec.dims[i]);
    contents.box[i] = spec.box[i];
    if (i > 0) contents.stride_bytes[i - 1] = spec.strides[i] * bytes_per_element(spec.dtype);
  }
  contents.element_bytes = static_cast<int32_t>(bytes_per_element(spec.dtype));
  return emulation::encode(contents);
}

std::vector<std::pair<std::string, EmulatedEntry>>& emulated_kernels() {
  static std::vector<std::pair<std::string, EmulatedEntry>> kernels;
  return kernels;
}

const EmulatedEntry& emulated_kernel(const std::string& config) {
  for (const auto& [name, entry] : emulated_kernels()) {
    if (name == config) return entry;
  }
  throw std::runtime_error("not compiled for the emulator: " + config);
}

DeviceProperties emulated_gpu(int multiprocessors) {
  DeviceProperties device;
  device.type = DeviceType::kCuda;
  device.name = "emulated";
  device.compute_capability = 90;
  device.multiprocessors = multiprocessors;
  device.shared_bytes = 227 * 1024;
  return device;
}

}  // namespace bsk::test
