// The problems that the emulated throughput kernel is tested with.
#pragma once

#include <vector>

#include "tests/cuda/emulated_attention.h"

namespace bsk::sm90::attention_forward {

// Small problems through every path.
std::vector<test::Case> smoke_cases();
std::vector<test::Case> edge_cases();
// Masks whose rows begin anywhere between two multiples of 16 bytes.
std::vector<test::Case> misaligned_masks();

}  // namespace bsk::sm90::attention_forward
