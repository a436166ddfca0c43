#include "src/cpu/instruction_set.h"

#include <string>
#include <vector>

#include "bsk/error.h"

namespace bsk::cpu {
namespace {

std::vector<InstructionSet> find_instruction_sets() {
  std::vector<InstructionSet> list;
#if defined(BSK_CPU_HAS_X86_LEVELS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) list.push_back({"avx512", attend_tile_avx512});
  if (__builtin_cpu_supports("x86-64-v3")) list.push_back({"avx2", attend_tile_avx2});
#endif
  list.push_back({"baseline", attend_tile_baseline});
  return list;
}

}  // namespace

std::span<const InstructionSet> instruction_sets() {
  static const std::vector<InstructionSet> list = find_instruction_sets();
  return list;
}

TileFunction tile_function(const std::string& name) {
  std::string names;
  for (const InstructionSet& set : instruction_sets()) {
    if (name == set.name) return set.attend_tile;
    names += (names.empty() ? "" : ", ") + std::string(set.name);
  }
  fail(ErrorKind::kRuntime, "plan.config", "an instruction set of this machine and build",
       "\"" + name + "\"", "Use one of: " + names + ".");
}

}  // namespace bsk::cpu
