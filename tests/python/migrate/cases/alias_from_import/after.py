"""Aliases in from-imports."""
from blackwell_sparsek import attention_forward
from blackwell_sparsek.utils import validate_correctness as check, benchmark_latency as timeit
import torch

RESULT = attention_forward(Q, K, V)
good, metrics = check(RESULT, torch.nn.functional.scaled_dot_product_attention(Q, K, V))
assert good
stats = timeit(attention_forward, Q, K, V, num_iters=2)
