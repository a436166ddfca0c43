import torch
from flashcore import build_baseline


class Attention(torch.nn.Module):
    """Attention by FlashCore."""

    def __init__(self, verbose=False):
        super().__init__()
        # built once
        self.kernel = build_baseline(verbose=verbose)  # seconds
        self.scale = 1.0

    def forward(self, q, k, v):
        return self.kernel.forward(q, k, v) * self.scale


class Causal(Attention):
    def forward(self, q, k, v):
        out: "torch.Tensor" = self.kernel.forward(q, k, V=v)
        return out


RESULT = Attention()(Q, K, V) + Causal()(Q, K, V)
