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

}  // namespace vehicle
