"""FlashAttention's names: change the import, keep the calls.

    python examples/with_flash_attn_names.py

Ends with 0 only if every result agreed with torch's attention.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# from flash_attn import flash_attn_func, flash_attn_varlen_func
from blackwell_sparsek.flash_attn import flash_attn_func, flash_attn_varlen_func


def agrees(name: str, ours: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-4 if ours.dtype == torch.float32 else 2e-2
    difference = (ours.float() - expected.float()).abs().max().item()
    good = difference <= tolerance
    print(f"{name} on {ours.device}: largest difference {difference:.2e} from SDPA -> "
          f"{'agrees' if good else 'DIFFERS'}")  # fmt: skip
    return good


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal, lower-right, of [batch, length, heads, head_dim] with fewer key heads."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    mask = mask.tril(k.shape[2] - q.shape[2])
    return scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2)


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    q, k, v = random(2, 100, 8, 64), random(2, 260, 2, 64), random(2, 260, 2, 64)
    good = agrees("flash_attn_func", flash_attn_func(q, k, v, causal=True), sdpa(q, k, v))

    lengths = [50, 7, 143]
    ends = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    q, k, v = random(200, 8, 64), random(200, 2, 64), random(200, 2, 64)
    packed = flash_attn_varlen_func(q, k, v, ends, ends, 143, 143, causal=True)
    one_by_one = [
        sdpa(*(t[None, first : first + length] for t in (q, k, v)))[0]
        for first, length in zip(ends.tolist(), lengths, strict=False)
    ]
    good &= agrees("flash_attn_varlen_func", packed, torch.cat(one_by_one))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
