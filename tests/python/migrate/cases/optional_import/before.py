import torch

try:
    from flashcore import build_baseline
    kernel = build_baseline()
except ImportError:
    kernel = None  # not installed


def attention(q, k, v):
    if kernel is not None:
        return kernel.forward(q, k, v)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


RESULT = attention(Q, K, V)
