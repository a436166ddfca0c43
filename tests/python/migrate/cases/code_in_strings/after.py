"""Times two kernels.

>>> from flashcore import build_baseline
"""
import timeit
from unittest import mock
from blackwell_sparsek import attention_forward
from flashcore import build_baseline

kernel = build_baseline()
RESULT = kernel.forward(Q, K, V) + attention_forward(Q, K, V)
seconds = timeit.timeit("kernel.forward(Q, K, V)", globals=globals(), number=2)
exec("from flashcore import build_baseline as again")
if False:
    mock.patch("mine.build_baseline")
    mock.patch("flashcore.utils.benchmark_latency")
