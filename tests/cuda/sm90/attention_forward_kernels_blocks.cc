#include "tests/cuda/sm90/attention_forward_kernels.h"

BSK_EMULATE_ATTENTION_FORWARD(
    b64, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 64,
                                              false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    b64_d128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 128, 128, 1, 128, 64, false,
                                         bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    b128x64,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 64, false,
                                         bsk::tile::MaskType::kNone, false, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    b128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, false,
                                         bsk::tile::MaskType::kNone, false, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    b64x128, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 128,
                                                  false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    b16, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 16,
                                              false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    b32, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 32,
                                              false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    b64_d256,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 256, 256, 1, 64, 64, false,
                                         bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    b128_d128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 128, 128, 2, 128, 128, false,
                                         bsk::tile::MaskType::kNone, false, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    b128x16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 16, false,
                                         bsk::tile::MaskType::kNone, false, false, false, true>);
