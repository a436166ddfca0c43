#!/usr/bin/env python
# -*- coding: utf-8 -*-
# licence

from blackwell_sparsek import (  # the old library
    attention_forward,  # builds
)  # done
from blackwell_sparsek.utils import (
    benchmark_latency,
    # validation
    validate_correctness,
)

# about the kernel
# inside
# loud
# after

# about the call
RESULT = attention_forward(  # why
    Q,  # query
    K,
    V,
)
if True:
    # nothing but a build
    pass
    # the end
# the very end
