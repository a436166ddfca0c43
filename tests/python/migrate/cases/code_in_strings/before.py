"""Times two kernels.

>>> from flashcore import build_baseline
"""
import timeit
from unittest import mock
from flashcore import build_baseline

kernel = build_baseline()
other = build_baseline()
RESULT = kernel.forward(Q, K, V) + other.forward(Q, K, V)
seconds = timeit.timeit("kernel.forward(Q, K, V)", globals=globals(), number=2)
exec("from flashcore import build_baseline as again")
if False:
    mock.patch("mine.build_baseline")
    mock.patch("flashcore.utils.benchmark_latency")
