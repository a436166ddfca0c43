from flashcore import build_baseline
from flashcore.utils import benchmark_latency

kernel = build_baseline()
qkv = (Q, K, V)
stats = benchmark_latency(
    lambda: kernel.forward(Q, K, V),  # what is timed
    num_iters=2,
)
benchmark_latency(lambda: kernel.forward(*qkv), num_iters=2)
benchmark_latency(lambda: kernel.forward(Q=Q, K=K, V=V))
benchmark_latency(lambda: kernel.forward(Q.clone(), K, V), num_iters=2)
benchmark_latency(lambda q=Q: kernel.forward(q, K, V), num_iters=2)
benchmark_latency(fn=lambda: kernel.forward(Q, K, V), num_iters=2)
benchmark_latency(kernel.forward(Q, K, V).sum, num_iters=2)


def run():
    return kernel.forward(Q, K, V)


print(benchmark_latency(run, num_iters=2)["median_us"])
RESULT = run()
