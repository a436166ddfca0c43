from blackwell_sparsek import attention_forward as bsk_attention_forward


def attention_forward(q, k, v):
    return bsk_attention_forward(q, k, v)


RESULT = attention_forward(Q, K, V)
