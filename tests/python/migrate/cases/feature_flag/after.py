import os

# gradual migration
USE_BLACKWELL = os.environ.get('USE_BLACKWELL', '0') == '1'


def attention(q, k, v):
    # the new way
    from blackwell_sparsek import attention_forward
    output = attention_forward(q, k, v)
    return output


RESULT = attention(Q, K, V)
