from flashcore import build_baseline
from flashcore.utils import benchmark_latency

kernel = build_baseline()
stats = benchmark_latency(lambda: kernel.forward(Q, K, V), 3)
RESULT = kernel.forward(Q, K, V)
