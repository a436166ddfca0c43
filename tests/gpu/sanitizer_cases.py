"""One small call of every kernel and feature, to run under compute-sanitizer.

    compute-sanitizer --tool memcheck python tests/gpu/sanitizer_cases.py [SECONDS]

Prints a line per case. After SECONDS no new case is begun, and the last line says so.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from blackwell_sparsek import _C, BlockMask, UnsupportedError, attention_forward
from blackwell_sparsek.attention import plan
from blackwell_sparsek.core import Config, set_default_config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = [n for n, _, _ in _C.kernels() if n.startswith("sm" if DEVICE == "cuda" else "cpu_a")]
HALF, BF16 = torch.float16, torch.bfloat16


def tensors(
    q_len: int, kv_len: int, head_dim: int = 64, v_head_dim: int = 0, dtype: torch.dtype = HALF
) -> list[torch.Tensor]:
    """Q [1, 4, ...], K and V [1, 2, ...]: grouped heads, ragged tiles."""
    shapes = [(4, q_len, head_dim), (2, kv_len, head_dim), (2, kv_len, v_head_dim or head_dim)]
    return [torch.randn(1, *shape).to(dtype).to(DEVICE) for shape in shapes]


def blocks(q_len: int, kv_len: int, size: tuple[int, int]) -> BlockMask:
    counts = -(-q_len // size[0]), -(-kv_len // size[1])
    dense = torch.arange(4 * counts[0] * counts[1]).view(1, 4, *counts) % 3 != 0
    dense[:, 1, 0] = False  # a row without keys
    return BlockMask.from_dense(dense, size, q_len=q_len, kv_len=kv_len).to(DEVICE)


def cases() -> Iterator[tuple[str, list[torch.Tensor], dict[str, Any]]]:
    """What differs in machine code or in the way of memory; smallest sizes with ragged ends."""
    yield "plain", tensors(130, 200), {}
    yield "causal", tensors(130, 200), {"is_causal": True}
    yield "lower right", tensors(70, 200), {"is_causal": "lower_right"}
    yield "bf16 d128", tensors(130, 200, 128, dtype=BF16), {"is_causal": True}
    yield "one query", tensors(1, 300), {}
    yield "one key", tensors(70, 1), {}
    yield "no keys", tensors(70, 0), {}
    yield "five tiles", tensors(70, 600), {"is_causal": "lower_right"}
    # More rows than one wave has room for: chains, and rows shared out over the ends of heads.
    many = [t.repeat(48, 1, 1, 1) for t in tensors(70, 300)]
    yield "chains", many, {}
    yield "chains, causal", many, {"is_causal": True}
    yield "shared rows", [t.repeat(6, 1, 1, 1) for t in tensors(970, 600)], {}
    yield "few queries, many keys", tensors(3, 1500), {}
    yield "few queries, a batch", [t.repeat(40, 1, 1, 1) for t in tensors(2, 1500, 128)], {}
    yield "more than 16 rows", tensors(13, 1500), {"is_causal": "lower_right"}
    yield "d128, short", tensors(70, 100, 128), {}
    yield "d96 v40", tensors(70, 150, 96, 40), {}
    yield "d256", tensors(70, 150, 256), {}
    yield "window", tensors(130, 200), {"window": (40, 10)}
    yield "softcap", tensors(70, 150), {"softcap": 5.0, "scale": -0.2}
    keep = torch.arange(150, device=DEVICE) % 7 != 0
    yield "padding mask", tensors(70, 150), {"attn_mask": keep[None, None, None]}
    added = torch.randn(4, 70, 151, device=DEVICE, dtype=HALF)[..., 1:]
    yield "additive mask, odd address", tensors(70, 150), {"attn_mask": added, "is_causal": True}
    yield "additive mask, odd rows", tensors(70, 150), {"attn_mask": added.contiguous()}
    apart = torch.randn(4, 150, 70, device=DEVICE, dtype=HALF).transpose(1, 2)
    yield "additive mask, transposed", tensors(70, 150), {"attn_mask": apart}
    yield (
        "bool mask, odd rows",
        tensors(70, 151),
        {"attn_mask": torch.rand(70, 151, device=DEVICE) > 0.3},
    )
    even = torch.randn(4, 70, 152, device=DEVICE, dtype=HALF)
    yield "additive mask", tensors(70, 152), {"attn_mask": even}
    yield "fp32 mask", tensors(70, 150), {"attn_mask": added.float()}
    for size in ((128, 128), (64, 64), (64, 16)):
        mask = blocks(200, 300, size)
        yield f"blocks {size[0]}x{size[1]}", tensors(200, 300), {"block_mask": mask}
    planned = [t.repeat(9, 1, 1, 1) for t in tensors(600, 300)]
    yield "planned rows", planned, {"block_mask": blocks(600, 300, (128, 128))}
    partial = BlockMask.sliding_window(200, 300, 90, sink=5, block_size=64, device=DEVICE)
    yield "partial blocks", tensors(200, 300), {"block_mask": partial, "is_causal": "lower_right"}
    rows_first = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors(70, 150)]
    yield "rows first", rows_first, {}


def run(qkv: list[torch.Tensor], options: dict[str, Any]) -> list[str]:
    """Runs one case on every kernel that takes it; returns their plans."""
    plans = []
    for kernel in KERNELS:
        set_default_config(Config(kernel=kernel))
        with contextlib.suppress(UnsupportedError):
            plans.append(plan(*qkv, **options))
            attention_forward(*qkv, return_lse=True, **options)
            attention_forward(*qkv, **options)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return plans


def main(clock: Callable[[], float] = time.monotonic) -> int:
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    start = clock()
    torch.manual_seed(0)
    for name, qkv, options in cases():
        if clock() - start > limit:
            print(f"out of time before case {name!r}", flush=True)
            return 1
        plans = run(qkv, options)
        if not plans:
            print(f"no kernel takes case {name!r}", flush=True)
            return 1
        print(f"case ok: {name} [{'; '.join(p.split(':')[0] for p in plans)}]", flush=True)
    print("all cases ran", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
