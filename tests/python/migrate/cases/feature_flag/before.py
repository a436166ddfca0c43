import os

# gradual migration
USE_BLACKWELL = os.environ.get('USE_BLACKWELL', '0') == '1'


def attention(q, k, v):
    if USE_BLACKWELL:
        # the new way
        from blackwell_sparsek import attention_forward
        output = attention_forward(q, k, v)
    else:
        from flashcore import build_baseline
        kernel = build_baseline()
        output = kernel.forward(q, k, v)
    return output


RESULT = attention(Q, K, V)
