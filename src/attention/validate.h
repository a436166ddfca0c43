// The two halves of `validate`: what depends on the problem alone, and what each call's addresses
// have to satisfy. Both throw Error (kValue, kType) at the first rule broken.
#pragma once

#include "bsk/attention.h"

namespace bsk {

void validate_problem(const AttentionProblem& problem);
// Of a problem that is valid.
void validate_addresses(const AttentionProblem& problem, const AttentionBuffers& buffers);

}  // namespace bsk
