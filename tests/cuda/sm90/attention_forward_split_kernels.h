// One configuration of the split kernel, compiled for the emulator.
#pragma once

#include "src/cuda/sm90/attention_forward_split/kernel.cuh"
#include "tests/cuda/emulated_attention.h"

// The variadic part is the Config's template arguments as ConfigChoice::type_name() writes them.
#define BSK_EMULATE_SPLIT(id, ...)                                                  \
  static const ::bsk::test::RegisterEmulated registered_##id(                       \
      #__VA_ARGS__, [](const void* params) {                                        \
        using Params = ::bsk::sm90::attention_forward_split::Params;                \
        ::bsk::sm90::attention_forward_split::attention_forward_split<__VA_ARGS__>( \
            *static_cast<const Params*>(params));                                   \
      })
