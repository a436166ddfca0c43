import os
from blackwell_sparsek import attention_forward


def attention(q, k, v):
    if os.getenv("NEW") == "1":
        return attention_forward(q, k, v)
    return attention_forward(q, k, v)


RESULT = attention(Q, K, V)
