import torch.nn.functional as F
try:
    from blackwell_sparsek import attention_forward
except ImportError:
    attention_forward = None

def attention(q, k, v):
    if attention_forward is None:
        return F.scaled_dot_product_attention(q, k, v)
    return attention_forward(q, k, v)

RESULT = attention(Q, K, V)
