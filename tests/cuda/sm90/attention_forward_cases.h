// The problems that the emulated throughput kernel is tested with.
#pragma once

#include <vector>

#include "tests/cuda/emulated_attention.h"

namespace bsk::sm90::attention_forward {

// Small problems through every path.
std::vector<test::Case> smoke_cases();
std::vector<test::Case> edge_cases();
// Masks whose rows begin anywhere between two boundaries of 16 bytes: in groups of rows, or element
// by element where the first row does not begin at one either.
std::vector<test::Case> misaligned_masks();

}  // namespace bsk::sm90::attention_forward
