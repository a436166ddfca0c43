import torch
from blackwell_sparsek import attention_forward


class Attention(torch.nn.Module):
    """Attention by FlashCore."""

    def __init__(self, verbose=False):
        super().__init__()
        # built once
        # seconds
        self.scale = 1.0

    def forward(self, q, k, v):
        return attention_forward(q, k, v) * self.scale


class Causal(Attention):
    def forward(self, q, k, v):
        out: "torch.Tensor" = attention_forward(q, k, V=v)
        return out


RESULT = Attention()(Q, K, V) + Causal()(Q, K, V)
