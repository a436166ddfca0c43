#include "tests/cuda/sm90/attention_forward_kernels.h"

BSK_EMULATE_ATTENTION_FORWARD(
    bool_unaligned,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, false,
                                         bsk::tile::MaskType::kBool, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    bool_unaligned_softcap,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, true,
                                         bsk::tile::MaskType::kBool, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    bool_unaligned_block64,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 64, false,
                                         bsk::tile::MaskType::kBool, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    bool_unaligned_block16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 16, false,
                                         bsk::tile::MaskType::kBool, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    bool_unaligned_d256,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 256, 256, 2, 32, 32, false,
                                         bsk::tile::MaskType::kBool, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_unaligned,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, true,
                                         bsk::tile::MaskType::kFloat16, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_unaligned_block16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 16, true,
                                         bsk::tile::MaskType::kFloat16, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_unaligned_d128_block64,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 128, 128, 1, 64, 64, true,
                                         bsk::tile::MaskType::kFloat16, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_unaligned_d256,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 256, 256, 2, 32, 32, true,
                                         bsk::tile::MaskType::kFloat16, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    bf16_unaligned_d128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 128, 128, 2, 96, 96, true,
                                         bsk::tile::MaskType::kBFloat16, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    bf16_unaligned_d128_block128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 128, 128, 2, 64, 64, true,
                                         bsk::tile::MaskType::kBFloat16, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp32_unaligned,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 64, 64, true,
                                         bsk::tile::MaskType::kFloat32, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp32_unaligned_d256,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 256, 256, 2, 32, 32, true,
                                         bsk::tile::MaskType::kFloat32, false, false, true>);
