#include "tests/cuda/sm90/attention_forward_kernels.h"

BSK_EMULATE_ATTENTION_FORWARD(
    d96, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 96, 96, 2, 128, 128,
                                              false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d128_v64,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 128, 64, 2, 128, 128, false,
                                         bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d192_v128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 192, 128, 2, 128, 128,
                                         false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d192, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 192, 192, 2, 128, 128,
                                               false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d256, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 256, 256, 2, 64, 64,
                                               false, bsk::tile::MaskType::kNone, false, false>);
