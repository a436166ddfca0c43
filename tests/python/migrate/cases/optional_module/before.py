import torch

try:
    import flashcore
except ImportError:
    flashcore = None

if flashcore is not None:
    RESULT = flashcore.build_baseline().forward(Q, K, V)
else:
    RESULT = torch.nn.functional.scaled_dot_product_attention(Q, K, V)
