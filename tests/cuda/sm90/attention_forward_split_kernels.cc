// The split kernel's configurations, compiled for the emulator.
#include "tests/cuda/sm90/attention_forward_split_kernels.h"

BSK_EMULATE_SPLIT(
    d64, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 128, 64,
                                                    false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d128, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 128, 128, 64, 64,
                                                     false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d128_bf16,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kBFloat16, 128, 128, 64, 64,
                                               false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d64v32, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 32, 128,
                                                       64, false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d96, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 96, 96, 64, 64,
                                                    false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d192v128,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kBFloat16, 192, 128, 64, 64,
                                               false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d256, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 256, 256, 64, 64,
                                                     false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d64_scores, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 64,
                                                           64, true, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    d64_bool, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 64,
                                                         64, true, bsk::tile::MaskType::kBool>);
BSK_EMULATE_SPLIT(
    d128_bool,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 128, 128, 32, 64, true,
                                               bsk::tile::MaskType::kBool>);
BSK_EMULATE_SPLIT(
    d64_bias, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 64,
                                                         64, true, bsk::tile::MaskType::kFloat16>);
BSK_EMULATE_SPLIT(
    d64_bias32,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 64, 64, true,
                                               bsk::tile::MaskType::kFloat32>);
BSK_EMULATE_SPLIT(
    few_d64, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 128,
                                                        16, false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d128, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 128, 128, 64,
                                                         16, false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d128_bf16,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kBFloat16, 128, 128, 64, 16,
                                               false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d64v32,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 32, 128, 16, false,
                                               bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d96, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 96, 96, 64,
                                                        16, false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d192v128,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kBFloat16, 192, 128, 64, 16,
                                               false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d256, bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 256, 256, 64,
                                                         16, false, bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d64_scores,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 128, 16, true,
                                               bsk::tile::MaskType::kNone>);
BSK_EMULATE_SPLIT(
    few_d64_bool,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 128, 16, true,
                                               bsk::tile::MaskType::kBool>);
BSK_EMULATE_SPLIT(
    few_d128_bool,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 128, 128, 64, 16, true,
                                               bsk::tile::MaskType::kBool>);
BSK_EMULATE_SPLIT(
    few_d64_bias,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 128, 16, true,
                                               bsk::tile::MaskType::kFloat16>);
BSK_EMULATE_SPLIT(
    few_d64_bias32,
    bsk::sm90::attention_forward_split::Config<bsk::arch::Element::kFloat16, 64, 64, 128, 16, true,
                                               bsk::tile::MaskType::kFloat32>);
