#include "tests/cuda/sm90/attention_forward_kernels.h"

BSK_EMULATE_ATTENTION_FORWARD(
    scores, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128,
                                                 true, bsk::tile::MaskType::kNone, false, false>);
