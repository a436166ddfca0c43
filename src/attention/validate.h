// The two halves of `validate`: what depends on the problem alone, and what each call's addresses
// have to satisfy. Both throw Error (kValue, kType) at the first rule broken.
#pragma once

#include "bsk/attention.h"

namespace bsk {

void validate_problem(const AttentionProblem& problem);

// What the addresses of a valid problem's tensors have to satisfy, derived from it once.
class AddressRules {
 public:
  explicit AddressRules(const AttentionProblem& problem);
  void check(const AttentionBuffers& buffers) const;

 private:
  struct Tensor {
    const char* name = "";
    int64_t alignment = 1;       // bytes that its address is a multiple of
    int64_t begin = 0, end = 0;  // its first and past its last byte, from its address; end 0: none
  };
  [[noreturn]] static void fail_alignment(const Tensor& tensor, const void* data);
  [[noreturn]] static void fail_overlap(const Tensor& tensor);

  int count_ = 0;
  Tensor tensors_[5];  // out, Q, K, V and, where there is one, attn_mask
};

}  // namespace bsk
