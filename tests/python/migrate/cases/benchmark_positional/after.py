from blackwell_sparsek import attention_forward
from flashcore.utils import benchmark_latency

stats = benchmark_latency(lambda: attention_forward(Q, K, V), 3)
RESULT = attention_forward(Q, K, V)
