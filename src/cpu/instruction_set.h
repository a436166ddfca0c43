// The instruction sets that the CPU kernel is compiled for.
#pragma once

#include <span>
#include <string>

#include "src/cpu/tile.h"

namespace bsk::cpu {

struct InstructionSet {
  const char* name;  // "avx512", "avx2", "baseline"
  TileFunction attend_tile;
};

// Those that this build has and this machine can run, the fastest first; never empty.
std::span<const InstructionSet> instruction_sets();

// The tile function of the instruction set of that name; Error(kRuntime) where this machine or
// build lacks it.
TileFunction tile_function(const std::string& name);

}  // namespace bsk::cpu
