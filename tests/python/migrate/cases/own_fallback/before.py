import torch
try:
    from flashcore import build_baseline
    from flashcore.utils import validate_correctness
except ImportError:
    def build_baseline(verbose=False):
        class Sdpa:
            forward = staticmethod(torch.nn.functional.scaled_dot_product_attention)
        return Sdpa()
    def validate_correctness(a, b):
        return torch.allclose(a, b)

kernel = build_baseline()
RESULT = kernel.forward(Q, K, V)
assert validate_correctness(RESULT, RESULT)
