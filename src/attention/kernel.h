// What a kernel is to the rest of the library: a name, the reasons why it cannot take a problem, a
// plan, a launch.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bsk/attention.h"

namespace bsk {

struct Kernel {
  const char* name;  // kernel, file, test id and bench row share it
  const char* summary;
  // Why this kernel cannot take the problem on that device; an empty list means that it can.
  std::vector<std::string> (*reasons)(const AttentionProblem&, const DeviceProperties&);
  AttentionPlan (*plan)(const AttentionProblem&, const DeviceProperties&);
  void (*launch)(const AttentionProblem&, const AttentionPlan&, const AttentionBuffers&);
  bool only_when_forced;  // taken only when asked for by name: an oracle, or what never ran on its
                          // device
};

// All kernels of this build, the most wanted first.
std::span<const Kernel> kernels();

// debug_mode: throws Error(kValue) where a list of a mask on the CPU is out of range, out of order,
// repeats a block, or shares one with the other list.
void check_block_lists(const AttentionProblem& problem, const BlockMaskBuffers& buffers);

}  // namespace bsk
