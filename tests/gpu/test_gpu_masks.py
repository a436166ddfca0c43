"""Causal alignments, windows, softcap and attn_mask, alone and together, against the oracle."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import gpu_tools
from gpu_tools import DTYPES, check, generator, qkv

pytestmark = gpu_tools.gpu_only()


@pytest.mark.parametrize(
    "window",
    [(0, 0), (1, 0), (63, 0), (64, 64), (5, 130), (-1, 0), (-1, 40), (200, -1), (500, 500)],
)
@pytest.mark.parametrize("is_causal", [False, "upper_left", "lower_right"])
@pytest.mark.parametrize("lengths", [(190, 190), (70, 300), (300, 70)], ids=str)
def test_window(window: tuple[int, int], is_causal: bool | str, lengths: tuple[int, int]) -> None:
    for head_dim in (64, 128):
        check(*qkv(1, 2, 2, *lengths, head_dim), window=window, is_causal=is_causal)


@pytest.mark.parametrize("softcap", [0.5, 15.0, 50.0])
@pytest.mark.parametrize("is_causal", [False, True])
def test_softcap(softcap: float, is_causal: bool) -> None:
    for dtype, head_dim in itertools.product(DTYPES, (64, 128)):
        check(*qkv(1, 4, 2, 150, 260, head_dim, dtype=dtype), softcap=softcap, is_causal=is_causal)


def _mask(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator(9), device=gpu_tools.DEVICE)
    if kind == "bool":
        return noise > -0.5
    noise = noise.masked_fill(noise < -1.5, -torch.inf).to(dtype)
    return noise.float() if kind == "fp32" else noise


@pytest.mark.parametrize("full", list(itertools.product([0, 1], repeat=4)), ids=str)
@pytest.mark.parametrize("kind", ["bool", "own dtype", "fp32"])
def test_attn_mask_with_every_broadcast(kind: str, full: tuple[int, ...]) -> None:
    """Each dimension of the mask full or 1, and the same by an expanded (stride 0) view."""
    sizes = (2, 4, 70, 150)
    dtype = DTYPES[sum(full) % 2]
    Q, K, V = qkv(2, 4, 2, 70, 150, 64, dtype=dtype)
    mask = _mask(kind, tuple(n if f else 1 for n, f in zip(sizes, full, strict=True)), dtype)
    check(Q, K, V, attn_mask=mask)
    check(Q, K, V, attn_mask=mask.expand(sizes), is_causal=True)


@pytest.mark.parametrize("kind", ["bool", "own dtype", "fp32"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_attn_mask_over_more_tiles(kind: str, head_dim: int) -> None:
    Q, K, V = qkv(1, 2, 2, 300, 333, head_dim, dtype=torch.bfloat16)
    mask = _mask(kind, (300, 333), torch.bfloat16)
    check(Q, K, V, attn_mask=mask)
    check(Q, K, V, attn_mask=mask.t().contiguous().t(), window=(100, 20), is_causal="lower_right")
    odd = _mask(kind, (1, 2, 301, 340), torch.bfloat16)[:, :, 1:, 3:336]  # rows at odd addresses
    check(Q, K, V, attn_mask=odd)


@pytest.mark.parametrize("kept", [0, 1, 63, 64, 65, 128, 200])
def test_padding_mask(kept: int) -> None:
    """[batch, 1, 1, kv_len]: one row keeps `kept` keys, one all, one the last ones."""
    Q, K, V = qkv(3, 4, 4, 140, 200, 64)
    key = torch.arange(200, device=gpu_tools.DEVICE)
    mask = torch.stack([key < kept, key >= 0, key >= 200 - kept])[:, None, None]
    check(Q, K, V, attn_mask=mask)
    check(Q, K, V, attn_mask=mask, is_causal=True)


def test_rows_without_keys_are_zero() -> None:
    Q, K, V = qkv(1, 2, 2, 130, 130, 64)
    mask = torch.ones(130, 130, dtype=torch.bool, device=gpu_tools.DEVICE)
    mask[3], mask[64:128] = False, False
    check(Q, K, V, attn_mask=mask)
    added = torch.zeros(130, 130, dtype=Q.dtype, device=gpu_tools.DEVICE)
    check(Q, K, V, attn_mask=added.masked_fill(~mask, -torch.inf))
    check(*qkv(1, 2, 2, 300, 70, 64), is_causal="lower_right")  # the first 230 precede every key


COMBINED: list[dict[str, Any]] = [
    {"is_causal": True, "window": (40, -1), "softcap": 20.0},
    {"is_causal": "lower_right", "softcap": 5.0, "scale": 0.3},
    {"window": (64, 10), "softcap": 8.0, "scale": -0.2},
    {"is_causal": True, "scale": 0.0},
]


@pytest.mark.parametrize("options", COMBINED, ids=str)
@pytest.mark.parametrize("kind", ["", "bool", "own dtype"])
def test_all_together(options: dict[str, Any], kind: str) -> None:
    for dtype, head_dim in ((torch.float16, 64), (torch.bfloat16, 128)):
        Q, K, V = qkv(2, 4, 2, 200, 250, head_dim, dtype=dtype)
        masked = {"attn_mask": _mask(kind, (2, 1, 200, 250), dtype)} if kind else {}
        check(Q, K, V, **options, **masked)
