"""xFormers: memory_efficient_attention on our operator, dense, packed and block-sparse.

    pip install blackwell-sparsek[xformers]
    python examples/with_xformers.py

Ends with 0 only if every result agreed with the bias's own dense meaning in torch.
"""

from __future__ import annotations

import sys

import torch
import xformers.ops as xops
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from xformers.ops.fmha.attn_bias import (
    BlockDiagonalCausalMask,
    LowerTriangularFromBottomRightMask,
)

from blackwell_sparsek import BlockMask
from blackwell_sparsek.backends import BlockSparseBias, SparseKBwOp, SparseKFwOp


def agrees(name: str, q: Tensor, k: Tensor, v: Tensor, bias: object) -> bool:
    ours = xops.memory_efficient_attention(q, k, v, bias, op=(SparseKFwOp, SparseKBwOp))
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    mask = bias.materialize(shape, dtype=q.dtype, device=q.device)  # type: ignore[attr-defined]
    expected = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), mask)
    difference = (ours.float() - expected.transpose(1, 2).float()).abs().max().item()
    good = difference <= (1e-4 if q.dtype == torch.float32 else 2e-2)
    print(f"{name} on {q.device}: largest difference {difference:.2e} from SDPA -> "
          f"{'agrees' if good else 'DIFFERS'}")  # fmt: skip
    return good


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    q, k, v = random(2, 200, 4, 64), random(2, 256, 4, 64), random(2, 256, 4, 64)
    good = agrees("causal, bottom right", q, k, v, LowerTriangularFromBottomRightMask())
    blocks = BlockMask.sliding_window(200, 256, 64, block_size=64, device=device)
    good &= agrees("block sparse", q, k, v, BlockSparseBias(blocks))
    packed = BlockDiagonalCausalMask.from_seqlens([50, 7, 143]).to(torch.device(device))
    q, k, v = (random(1, 200, 4, 64) for _ in range(3))
    good &= agrees("packed, causal", q, k, v, packed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
