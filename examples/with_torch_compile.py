"""torch.compile of code that calls attention_forward: one graph, any length, equal results.

    python examples/with_torch_compile.py

Ends with 0 only if the compiled model agreed with the eager one.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from blackwell_sparsek import BlockMask, attention_forward


class Layer(nn.Module):
    """Attention with a residual; `mask` chooses which blocks are computed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor, mask: BlockMask) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        attended = attention_forward(q, k, v, is_causal=True, block_mask=mask)
        result: Tensor = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return result


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Layer(128, 4), Layer(128, 4)

    def forward(self, x: Tensor, mask: BlockMask) -> Tensor:
        result: Tensor = self.second(self.first(x, mask), mask)
        return result


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    model = TwoLayers().to(device, dtype).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    agrees = True
    with torch.no_grad():
        for length in (700, 450, 330):
            x = torch.randn(2, length, 128, device=device, dtype=dtype)
            mask = BlockMask.sliding_window(length, length, 128, block_size=64, device=device)
            eager, ours = model(x, mask), compiled(x, mask)
            difference = (eager.float() - ours.float()).abs().max().item()
            good = torch.allclose(eager.float(), ours.float(), rtol=2e-2, atol=2e-2)
            agrees &= good
            print(
                f"length {length} on {device}: compiled against eager, largest difference "
                f"{difference:.2e} -> {'agrees' if good else 'DIFFERS'}"
            )
        breaks = torch._dynamo.explain(model)(x, mask).graph_break_count
    print(f"graph breaks: {breaks}")
    return 0 if agrees and breaks == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
