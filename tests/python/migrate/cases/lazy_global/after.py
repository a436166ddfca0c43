from blackwell_sparsek import attention_forward

_calls = 0


def attention(q, k, v):
    global _calls
    _calls += 1
    # the first call builds
    return attention_forward(q, k, v)


RESULT = attention(Q, K, V) + attention(Q, K, V)
