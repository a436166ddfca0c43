"""diffusers: a small Flux transformer (random weights), and block sparsity through its dispatcher.

    pip install blackwell-sparsek[diffusers]
    python examples/with_diffusers.py

Ends with 0 only if both agreed with diffusers' native attention.
"""

from __future__ import annotations

import sys

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from blackwell_sparsek import BlockMask
from blackwell_sparsek.backends import register_diffusers


def agrees(name: str, ours: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-4 if ours.dtype == torch.float32 else 3e-2
    difference = (ours.float() - expected.float()).abs().max().item()
    good = difference <= tolerance
    print(f"{name} on {ours.device}: largest difference {difference:.2e} from native -> "
          f"{'agrees' if good else 'DIFFERS'}")  # fmt: skip
    return good


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    backend = register_diffusers()
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    model = model.to(device, dtype).eval()
    inputs = {
        "hidden_states": torch.randn(1, 64, 4, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(1, 8, 32, device=device, dtype=dtype),
        "pooled_projections": torch.randn(1, 32, device=device, dtype=dtype),
        "timestep": torch.ones(1, device=device, dtype=dtype),
        "img_ids": torch.randn(64, 3, device=device, dtype=dtype),
        "txt_ids": torch.randn(8, 3, device=device, dtype=dtype),
    }
    with torch.no_grad():
        expected = model(**inputs).sample
        model.set_attention_backend(backend)
        ours = model(**inputs).sample
    good = agrees("Flux transformer", ours, expected)

    q, k, v = (torch.randn(1, 300, 4, 64, device=device, dtype=dtype) for _ in range(3))
    blocks = BlockMask.sliding_window(300, 300, 64, 64, block_size=64, device=device)
    sparse = dispatch_attention_fn(
        q, k, v, attention_kwargs={"block_mask": blocks}, backend=backend
    )
    dense = dispatch_attention_fn(
        q, k, v, attn_mask=blocks.to_dense_mask(300, 300), backend="native"
    )
    good &= agrees("block sparsity", sparse, dense)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
