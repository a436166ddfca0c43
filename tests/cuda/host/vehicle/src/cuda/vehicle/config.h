#pragma once

namespace vehicle {

struct alignas(64) TensorMap {
  unsigned long long opaque[16];
};

struct Params {
  TensorMap input;
  float* output;
  int elements;
  float scale;
};

template <int Threads>
struct Config {
  using Params = vehicle::Params;
  static constexpr int kThreads = Threads;
  static constexpr int kMinBlocks = 1;
};

}  // namespace vehicle
