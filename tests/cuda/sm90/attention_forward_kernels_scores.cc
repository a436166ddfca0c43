#include "tests/cuda/sm90/attention_forward_kernels.h"

BSK_EMULATE_ATTENTION_FORWARD(
    scores, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128,
                                                 true, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    bool_mask,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, true,
                                         bsk::tile::MaskType::kBool, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_mask,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, true,
                                         bsk::tile::MaskType::kFloat16, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp32_mask,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, true,
                                         bsk::tile::MaskType::kFloat32, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    block_bool,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 64, true,
                                         bsk::tile::MaskType::kBool, false, false>);
