from flashcore import build_baseline as flashcore_build
from flashcore.utils import benchmark_latency as flashcore_bench
from blackwell_sparsek import attention_forward
from blackwell_sparsek.utils import benchmark_latency as blackwell_bench

old = flashcore_build()
RESULT = old.forward(Q, K, V) - attention_forward(Q, K, V)
a = flashcore_bench(lambda: old.forward(Q, K, V), num_iters=2)
b = blackwell_bench(attention_forward, Q, K, V, num_iters=2)
