// The latency kernel's configurations, compiled for the emulator.
#include "src/cuda/sm90/attention_forward_small/kernel.cuh"
#include "tests/cuda/emulated_attention.h"

#define BSK_EMULATE_SMALL(id, ...)                                                  \
  static const ::bsk::test::RegisterEmulated registered_##id(                       \
      #__VA_ARGS__, [](const void* params) {                                        \
        using Params = ::bsk::sm90::attention_forward_small::Params;                \
        ::bsk::sm90::attention_forward_small::attention_forward_small<__VA_ARGS__>( \
            *static_cast<const Params*>(params));                                   \
      })

BSK_EMULATE_SMALL(
    d64_k128,
    bsk::sm90::attention_forward_small::Config<bsk::arch::Element::kFloat16, 64, 64, 1, 128, 1>);
BSK_EMULATE_SMALL(
    d64_k256,
    bsk::sm90::attention_forward_small::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 2>);
BSK_EMULATE_SMALL(
    d64_k512,
    bsk::sm90::attention_forward_small::Config<bsk::arch::Element::kFloat16, 64, 64, 2, 128, 4>);
BSK_EMULATE_SMALL(
    d64_k512_bf16,
    bsk::sm90::attention_forward_small::Config<bsk::arch::Element::kBFloat16, 64, 64, 2, 128, 4>);
BSK_EMULATE_SMALL(
    d128_k128,
    bsk::sm90::attention_forward_small::Config<bsk::arch::Element::kFloat16, 128, 128, 1, 128, 1>);
BSK_EMULATE_SMALL(
    d128_k128_bf16,
    bsk::sm90::attention_forward_small::Config<bsk::arch::Element::kBFloat16, 128, 128, 1, 128, 1>);
