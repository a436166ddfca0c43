from blackwell_sparsek import attention_forward
from blackwell_sparsek.utils import benchmark_latency

qkv = (Q, K, V)
stats = benchmark_latency(
    attention_forward, Q, K, V,  # what is timed
    num_iters=2,
)
benchmark_latency(attention_forward, *qkv, num_iters=2)
benchmark_latency(attention_forward, Q=Q, K=K, V=V)
benchmark_latency(lambda: attention_forward(Q.clone(), K, V), num_iters=2)
benchmark_latency(lambda q=Q: attention_forward(q, K, V), num_iters=2)
benchmark_latency(fn=lambda: attention_forward(Q, K, V), num_iters=2)
benchmark_latency(attention_forward(Q, K, V).sum, num_iters=2)


def run():
    return attention_forward(Q, K, V)


print(benchmark_latency(run, num_iters=2)["median_us"])
RESULT = run()
