import torch

try:
    from blackwell_sparsek import attention_forward
except ImportError:
    attention_forward = None  # not installed


def attention(q, k, v):
    if attention_forward is not None:
        return attention_forward(q, k, v)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


RESULT = attention(Q, K, V)
