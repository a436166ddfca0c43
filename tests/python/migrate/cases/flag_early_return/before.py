import os
from blackwell_sparsek import attention_forward
from flashcore import build_baseline

KERNEL = build_baseline()


def attention(q, k, v):
    if os.getenv("NEW") == "1":
        return attention_forward(q, k, v)
    return KERNEL.forward(q, k, v)


RESULT = attention(Q, K, V)
