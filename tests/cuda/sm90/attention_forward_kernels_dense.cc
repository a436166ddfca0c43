#include "tests/cuda/sm90/attention_forward_kernels.h"

BSK_EMULATE_ATTENTION_FORWARD(
    d64, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 3, 128, 128,
                                              false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d128, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 128, 128, 2, 128, 128,
                                               false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d128_bf16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 128, 128, 2, 128, 128,
                                         false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d32, bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 32, 32, 3, 128, 128,
                                              false, bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d32_q128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 32, 32, 2, 128, 128, false,
                                         bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d64_q128,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 128, false,
                                         bsk::tile::MaskType::kNone, false, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d64_shared,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 3, 128, 128, false,
                                         bsk::tile::MaskType::kNone, true, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d32_shared,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 32, 32, 3, 128, 128, false,
                                         bsk::tile::MaskType::kNone, true, false>);
BSK_EMULATE_ATTENTION_FORWARD(
    d64_chained,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 64, 3, 128, 128, false,
                                         bsk::tile::MaskType::kNone, true, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    d32_chained,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 32, 32, 3, 128, 128, false,
                                         bsk::tile::MaskType::kNone, true, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    d64_chained_bf16,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kBFloat16, 64, 64, 3, 128, 128, false,
                                         bsk::tile::MaskType::kNone, true, true>);
BSK_EMULATE_ATTENTION_FORWARD(
    d64_v32_chained,
    bsk::sm90::attention_forward::Config<bsk::arch::Element::kFloat16, 64, 32, 3, 128, 128, false,
                                         bsk::tile::MaskType::kNone, true, true>);
BSK_EMULATE_ATTENTION_FORWARD(d64_chained_skipping,
                              bsk::sm90::attention_forward::Config<
                                  bsk::arch::Element::kFloat16, 64, 64, 3, 128, 128, false,
                                  bsk::tile::MaskType::kNone, true, true, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(d32_chained_skipping,
                              bsk::sm90::attention_forward::Config<
                                  bsk::arch::Element::kFloat16, 32, 32, 3, 128, 128, false,
                                  bsk::tile::MaskType::kNone, true, true, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(d64_chained_bf16_skipping,
                              bsk::sm90::attention_forward::Config<
                                  bsk::arch::Element::kBFloat16, 64, 64, 3, 128, 128, false,
                                  bsk::tile::MaskType::kNone, true, true, false, false, true>);
BSK_EMULATE_ATTENTION_FORWARD(d64_v32_chained_skipping,
                              bsk::sm90::attention_forward::Config<
                                  bsk::arch::Element::kFloat16, 64, 32, 3, 128, 128, false,
                                  bsk::tile::MaskType::kNone, true, true, false, false, true>);
