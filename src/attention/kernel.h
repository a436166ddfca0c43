// What a kernel is to the rest of the library: a name, the reasons why it cannot take a problem, a
// plan, a launch prepared for a problem.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bsk/attention.h"

namespace bsk {

// A kernel made ready for one problem and plan: all that is left to a call is its addresses and its
// stream. Used by one thread at a time.
class PreparedLaunch {
 public:
  virtual ~PreparedLaunch() = default;
  virtual void launch(const AttentionBuffers& buffers) = 0;
};

struct Kernel {
  const char* name;  // kernel, file, test id and bench row share it
  const char* summary;
  // Why this kernel cannot take the problem on that device; an empty list means that it can.
  std::vector<std::string> (*reasons)(const AttentionProblem&, const DeviceProperties&);
  AttentionPlan (*plan)(const AttentionProblem&, const DeviceProperties&);
  // Null where there is nothing to launch: no task.
  std::unique_ptr<PreparedLaunch> (*prepare)(const AttentionProblem&, const AttentionPlan&);
  bool only_when_forced;  // taken only when asked for by name: an oracle, or what never ran on its
                          // device
};

// `prepare` of a kernel that has nothing to prepare, from the function that does all of a call.
template <void (*kLaunch)(const AttentionProblem&, const AttentionPlan&, const AttentionBuffers&)>
std::unique_ptr<PreparedLaunch> prepare_nothing(const AttentionProblem& problem,
                                                const AttentionPlan& plan) {
  class WholeCall final : public PreparedLaunch {
   public:
    WholeCall(const AttentionProblem& problem, const AttentionPlan& plan)
        : problem_(problem), plan_(plan) {}
    void launch(const AttentionBuffers& buffers) override { kLaunch(problem_, plan_, buffers); }

   private:
    const AttentionProblem problem_;
    const AttentionPlan plan_;
  };
  return std::make_unique<WholeCall>(problem, plan);
}

// All kernels of this build, the most wanted first.
std::span<const Kernel> kernels();

// debug_mode: throws Error(kValue) where a list of a mask on the CPU is out of range, out of order,
// repeats a block, or shares one with the other list.
void check_block_lists(const AttentionProblem& problem, const BlockMaskBuffers& buffers);

}  // namespace bsk
