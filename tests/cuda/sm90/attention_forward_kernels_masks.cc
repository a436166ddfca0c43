#include "tests/cuda/sm90/attention_forward_kernels.h"

BSK_EMULATE_ATTENTION_FORWARD(
    keys, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 3, 128, 128,
                                               false, bsk::tile::MaskType::kKeys, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    keys_q128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, false,
                                         bsk::tile::MaskType::kKeys, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    keys_scores,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, true,
                                         bsk::tile::MaskType::kKeys, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    keys_d128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 128, 128, 2, 128, 128, false,
                                         bsk::tile::MaskType::kKeys, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    keys_block64,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 64, false,
                                         bsk::tile::MaskType::kKeys, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    keys_block16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 16, false,
                                         bsk::tile::MaskType::kKeys, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    bool_mask,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, false,
                                         bsk::tile::MaskType::kBool, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    bool_mask_block64,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 64, false,
                                         bsk::tile::MaskType::kBool, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_mask,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, true,
                                         bsk::tile::MaskType::kFloat16, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp32_mask,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 64, 64, true,
                                         bsk::tile::MaskType::kFloat32, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    bf16_mask_d128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 128, 128, 2, 128, 128, true,
                                         bsk::tile::MaskType::kBFloat16, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_mask_d256,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 256, 256, 2, 64, 64, true,
                                         bsk::tile::MaskType::kFloat16, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_mask_block64,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 64, true,
                                         bsk::tile::MaskType::kFloat16, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    fp16_mask_block16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 16, true,
                                         bsk::tile::MaskType::kFloat16, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    keys_d128_bf16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 128, 128, 2, 128, 128,
                                         false, bsk::tile::MaskType::kKeys, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    keys_block16_softcap,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 64, 64, 2, 128, 16, true,
                                         bsk::tile::MaskType::kKeys, false, false>);
