#!/usr/bin/env python
# -*- coding: utf-8 -*-
# licence

from flashcore import (  # the old library
    build_baseline,  # builds
)  # done
from flashcore.utils import (
    benchmark_latency,
    # validation
    validate_correctness,
)

# about the kernel
kernel = build_baseline(  # inside
    verbose=True,  # loud
)  # after

# about the call
RESULT = kernel.forward(  # why
    Q,  # query
    K,
    V,
)
if True:
    # nothing but a build
    other = build_baseline()
    # the end
# the very end
