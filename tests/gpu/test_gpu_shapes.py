"""Lengths, head dims, heads and strides against the fp64 oracle, inputs in halos of NaN."""

from __future__ import annotations

import pytest
import torch

import gpu_tools
from blackwell_sparsek import attention_forward
from gpu_tools import DTYPES, check, qkv, randn

pytestmark = gpu_tools.gpu_only()

LENGTHS = sorted({*range(1, 258, 16), *range(16, 257, 48), 63, 64, 127, 128, 191, 192, 255, 256})
PRIMES = [2, 3, 5, 7, 11, 13, 31, 61, 67, 127, 131, 251, 257, 383, 509, 521, 769, 1021]


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_length(length: int, is_causal: bool, head_dim: int) -> None:
    dtype = DTYPES[length % 2]
    check(*qkv(1, 2, 2, length, length, head_dim, dtype=dtype), is_causal=is_causal)


@pytest.mark.parametrize("length", PRIMES)
def test_prime_length(length: int) -> None:
    for head_dim in (64, 128):
        check(*qkv(2, 3, 1, length, length, head_dim), is_causal=True)
        check(*qkv(1, 2, 2, length, length, head_dim, dtype=torch.bfloat16))


@pytest.mark.parametrize("is_causal", [False, "upper_left", "lower_right"])
@pytest.mark.parametrize(
    "lengths",
    [
        (1, 700),
        (3, 128),
        (16, 513),
        (64, 65),
        (65, 64),
        (127, 1),
        (128, 384),
        (200, 77),
        (500, 130),
    ],
    ids=str,
)
def test_unequal_lengths(lengths: tuple[int, int], is_causal: bool | str) -> None:
    for head_dim, dtype in ((64, torch.bfloat16), (128, torch.float16)):
        check(*qkv(2, 4, 2, *lengths, head_dim, dtype=dtype), is_causal=is_causal)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", range(16, 257, 8))
def test_every_head_dim(head_dim: int, dtype: torch.dtype) -> None:
    check(*qkv(1, 2, 1, 150, 170, head_dim, dtype=dtype), is_causal="lower_right")


@pytest.mark.parametrize("dims", [(64, 128), (128, 64), (192, 128), (16, 256), (256, 24), (72, 40)])
def test_v_head_dim_differs(dims: tuple[int, int]) -> None:
    for dtype in DTYPES:
        check(*qkv(2, 2, 2, 129, 200, *dims, dtype=dtype))


@pytest.mark.parametrize(
    "heads", [(2, 1), (4, 2), (6, 2), (3, 1), (8, 2), (8, 1), (12, 12), (12, 3), (24, 8), (40, 8)]
)
@pytest.mark.parametrize("q_len", [1, 97, 300])
def test_heads(heads: tuple[int, int], q_len: int) -> None:
    dtype = DTYPES[heads[0] // 2 % 2]
    check(*qkv(2, *heads, q_len, 300, 64, dtype=dtype), is_causal="lower_right")
    check(*qkv(1, *heads, q_len, 300, 128, dtype=dtype))


@pytest.mark.parametrize(
    "shape", [(0, 2, 2, 5, 7), (2, 0, 0, 5, 7), (2, 2, 2, 0, 7), (2, 2, 1, 5, 0), (1, 2, 2, 300, 0)]
)
@pytest.mark.parametrize("is_causal", [False, True, "lower_right"])
def test_empty(shape: tuple[int, int, int, int, int], is_causal: bool | str) -> None:
    batch, q_heads, kv_heads, q_len, kv_len = shape
    Q, K = randn(batch, q_heads, q_len, 64), randn(batch, kv_heads, kv_len, 64)
    for kernel in ("", *gpu_tools.takers(Q, K, K, is_causal=is_causal)):
        with gpu_tools.forced(kernel or gpu_tools.takers(Q, K, K)[0]):
            out = torch.full_like(Q, torch.nan)
            result, lse = attention_forward(Q, K, K, is_causal=is_causal, return_lse=True, out=out)
        assert result is out and lse.shape == Q.shape[:3]
        assert (out == 0).all() and (lse == -torch.inf).all()
    assert attention_forward(Q, K, K, is_causal=is_causal).shape == Q.shape


# ---- strides -------------------------------------------------------------------------------------


def _layouts(Q: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same numbers in other places of memory."""
    batch, heads, length, dim = Q.shape
    rows_first = Q.transpose(1, 2).contiguous().transpose(1, 2)
    packed = torch.stack([Q, Q, Q], 3)[:, :, :, 1]  # rows of three, as of a fused QKV projection
    every_second = torch.empty(batch, heads, 2 * length, dim, dtype=Q.dtype, device=Q.device)
    every_second[:, :, ::2], every_second[:, :, 1::2] = Q, torch.nan
    last = torch.full((length, heads, batch, dim + 8), torch.nan, dtype=Q.dtype, device=Q.device)
    last[..., :dim] = Q.permute(2, 1, 0, 3)
    return {
        "rows first": rows_first,
        "packed": packed,
        "every second row": every_second[:, :, ::2],
        "batch third": last.permute(2, 1, 0, 3)[..., :dim],
    }


@pytest.mark.parametrize("name", ["rows first", "packed", "every second row", "batch third"])
def test_layout(name: str) -> None:
    Q, K, V = (randn(2, 4, 140, 64, seed=i) for i in range(3))
    views = [_layouts(t)[name] for t in (Q, K, V)]
    check(*views, is_causal=True)
    for kernel in gpu_tools.takers(Q, K, V, is_causal=True):
        with gpu_tools.forced(kernel):
            expected = attention_forward(Q, K, V, is_causal=True)
            assert torch.equal(attention_forward(*views, is_causal=True), expected)
            out = _layouts(torch.full_like(Q, torch.nan))[name]
            assert attention_forward(Q, K, V, is_causal=True, out=out) is out
            assert torch.equal(out, expected)


def test_out_leaves_its_surroundings_alone() -> None:
    Q, K, V = qkv(2, 3, 3, 77, 90, 64)
    padded = torch.full((4, 5, 77 + 16, 64 + 16), 7.0, dtype=Q.dtype, device=Q.device)
    inside = (slice(1, 3), slice(1, 4), slice(8, 85), slice(8, 72))
    for kernel in gpu_tools.takers(Q, K, V):
        padded.fill_(7.0)
        with gpu_tools.forced(kernel):
            attention_forward(Q, K, V, out=padded[inside])
            assert torch.equal(padded[inside], attention_forward(Q, K, V))
        padded[inside] = 7.0
        assert (padded == 7.0).all()


@pytest.mark.parametrize("expanded", ["batch", "heads", "both"])
def test_stride_0_views(expanded: str) -> None:
    Q = randn(3, 4, 130, 64)
    batch, heads = (1 if expanded in (d, "both") else n for d, n in (("batch", 3), ("heads", 4)))
    K, V = (randn(batch, heads, 200, 64, seed=i).expand(3, 4, 200, 64) for i in (1, 2))
    check(Q, K, V)
    check(randn(batch, heads, 130, 64).expand(3, 4, 130, 64), K, V, is_causal=True)
    for kernel in gpu_tools.takers(Q, K, V):
        with gpu_tools.forced(kernel):
            copied = attention_forward(Q, K.contiguous(), V.contiguous())
            assert torch.equal(attention_forward(Q, K, V), copied)
