"""A process's first call, for test_gpu_first_call.py: prints one JSON line.

python first_call.py KERNEL_DIR     ("" = the package's own)
"""

from __future__ import annotations

import json
import re
import sys
import time
import warnings

import torch
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek import _C, attention_forward
from blackwell_sparsek._nvrtc import nvrtc_libraries
from blackwell_sparsek.attention import plan

if sys.argv[1]:
    _C.set_engine_places(sys.argv[1], nvrtc_libraries(torch.version.cuda), "")
Q, K, V = (torch.randn(1, 8, 512, 64, dtype=torch.float16, device="cuda") for _ in range(3))
torch.cuda.synchronize()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    start = time.perf_counter()
    result = attention_forward(Q, K, V)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
difference = (result - scaled_dot_product_attention(Q, K, V)).abs().max().item()
found = re.search(r"<(\w+)>", plan(Q, K, V))
requests = [k for k in _C.documented_kernels() if found and k[0] == found[1]]
print(
    json.dumps(
        {
            "seconds": seconds,
            "right": difference < 5e-3,
            "origin": _C.compile_kernel(*requests[0])[0] if requests else "not documented",
            "warnings": [str(w.message) for w in caught],
        }
    )
)
