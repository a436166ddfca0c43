from blackwell_sparsek import attention_forward
from flashcore import build_baseline

left, count = build_baseline(), 2
a = b = build_baseline()
RESULT = attention_forward(Q, K, V) + attention_forward(Q, K, V) * count; print(RESULT.shape)
