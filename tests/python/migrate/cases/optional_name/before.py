import torch.nn.functional as F
try:
    from flashcore import build_baseline
except ImportError:
    build_baseline = None

def attention(q, k, v):
    if build_baseline is None:
        return F.scaled_dot_product_attention(q, k, v)
    kernel = build_baseline()
    return kernel.forward(q, k, v)

RESULT = attention(Q, K, V)
