"""FlashAttention's names against a plain float64 formula written for its layouts."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from blackwell_sparsek import BlockMask, UnsupportedError, flash_attn
from blackwell_sparsek.core import Config, set_default_config


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """FlashAttention's documented meaning, [length, heads, head_dim] in float64, and the LSE."""
    q, k, v = (t.double() for t in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or q.shape[-1] ** -0.5)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    row = torch.arange(q.shape[0])[:, None] + k.shape[0] - q.shape[0]
    column = torch.arange(k.shape[0])
    left, right = window
    right = 0 if causal else right
    hidden = torch.zeros(q.shape[0], k.shape[0], dtype=torch.bool)
    if right >= 0:
        hidden |= column > row + right
    if left >= 0:
        hidden |= column < row - left
    scores = scores.masked_fill(hidden, -torch.inf)
    lse = scores.logsumexp(-1)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return torch.einsum("hqk,khd->qhd", weights, v), lse


def tensors(q_len: int, kv_len: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = ((2, q_len, 4, 32), (2, kv_len, 2, 32), (2, kv_len, 2, 40))
    return tuple(torch.randn(shape, generator=g) for shape in shapes)  # type: ignore[return-value]


CASES: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"causal": True, "window_size": (17, 0)},
    {"window_size": (5, 9)},
    {"causal": True, "softcap": 3.0, "softmax_scale": 0.5, "deterministic": True},
]


def as_reference(options: dict[str, Any]) -> dict[str, Any]:
    names = {"window_size": "window", "softmax_scale": "scale"}
    return {names.get(k, k): v for k, v in options.items() if k != "deterministic"}


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("lengths", [(33, 33), (20, 57), (57, 20)], ids=str)
def test_dense(options: dict[str, Any], lengths: tuple[int, int]) -> None:
    q, k, v = tensors(*lengths)
    out, lse, probabilities = flash_attn.flash_attn_func(q, k, v, **options, return_attn_probs=True)
    assert out.shape == (2, lengths[0], 4, 40) and out.is_contiguous()
    assert lse.shape == (2, 4, lengths[0]) and probabilities is None
    for b in range(2):
        expected, expected_lse = reference(q[b], k[b], v[b], **as_reference(options))
        torch.testing.assert_close(out[b].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(lse[b].double(), expected_lse, rtol=1e-5, atol=1e-5)
    assert torch.equal(flash_attn.flash_attn_func(q, k, v, **options), out)


def test_positional_order_is_flash_attentions() -> None:
    q, k, v = tensors(20, 57)
    positional = flash_attn.flash_attn_func(q, k, v, 0.0, 0.5, True, (17, 0), 3.0, None, True)
    named = flash_attn.flash_attn_func(
        q, k, v, softmax_scale=0.5, causal=True, window_size=(17, 0), softcap=3.0
    )
    assert torch.equal(positional, named)


def test_packed_tensors_equal_separate_ones() -> None:
    q, k, v = (torch.randn(2, 40, 4, 32) for _ in range(3))
    expected = flash_attn.flash_attn_func(q, k, v, causal=True, softmax_scale=0.3)
    qkv, kv = torch.stack([q, k, v], 2), torch.stack([k, v], 2)
    options: dict[str, Any] = {"causal": True, "softmax_scale": 0.3}
    assert torch.equal(flash_attn.flash_attn_qkvpacked_func(qkv, **options), expected)
    assert torch.equal(flash_attn.flash_attn_kvpacked_func(q, kv, **options), expected)
    with pytest.raises(ValueError, match="qkv: must have 3 as its third size"):
        flash_attn.flash_attn_qkvpacked_func(kv)
    with pytest.raises(ValueError, match="kv: must have 5 dimensions"):
        flash_attn.flash_attn_kvpacked_func(q, k)


def test_block_mask() -> None:
    q, k, v = (torch.randn(2, 128, 4, 32) for _ in range(3))
    blocks = BlockMask.from_dense(torch.tensor([[True, False], [False, True]]), 64)
    out = flash_attn.flash_attn_func(q, k, v, block_mask=blocks)
    expected, _ = reference(q[0, :64], k[0, :64], v[0, :64])
    torch.testing.assert_close(out[0, :64].double(), expected, rtol=1e-5, atol=1e-5)


Q_LENGTHS, K_LENGTHS = (5, 0, 40, 1), (9, 3, 40, 0)


def packed(lengths: tuple[int, ...], heads: int, head_dim: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    offsets = torch.tensor((0, *lengths)).cumsum(0).int()
    return torch.randn(sum(lengths) + 2, heads, head_dim, generator=g), offsets


@pytest.mark.parametrize("options", CASES, ids=str)
def test_varlen(options: dict[str, Any]) -> None:
    q, cu_q = packed(Q_LENGTHS, 4, 32, 0)
    k, cu_k = packed(K_LENGTHS, 2, 32, 1)
    v, _ = packed(K_LENGTHS, 2, 40, 2)
    out, lse, _ = flash_attn.flash_attn_varlen_func(
        q, k, v, cu_q, cu_k, 40, 40, **options, return_attn_probs=True
    )
    for i in range(4):
        rows, keys = slice(cu_q[i], cu_q[i + 1]), slice(cu_k[i], cu_k[i + 1])
        expected, expected_lse = reference(q[rows], k[keys], v[keys], **as_reference(options))
        torch.testing.assert_close(out[rows].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(lse[:, rows].double(), expected_lse, rtol=1e-5, atol=1e-5)
    assert torch.equal(out[-2:], torch.zeros_like(out[-2:]))  # tokens of no sequence
    assert (lse[:, -2:] == -torch.inf).all()


@pytest.mark.parametrize("options", CASES, ids=str)
def test_varlen_by_one_document_mask_equals_one_by_one(options: dict[str, Any]) -> None:
    """The route of a GPU and of torch.compile, taken here through the compiler."""
    torch._dynamo.reset()
    lengths = (5, 0, 70, 1, 140)
    q, offsets = packed(lengths, 4, 32, 0)
    k, v = (packed(lengths, 2, 32, seed)[0] for seed in (1, 2))

    def varlen(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Any:
        return flash_attn.flash_attn_varlen_func(
            q, k, v, offsets, offsets, 140, 140, **options, return_attn_probs=True
        )[:2]

    compiled = torch.compile(varlen, fullgraph=True, backend="eager")
    for ours, expected in zip(compiled(q, k, v, offsets), varlen(q, k, v, offsets), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_supported_says_so() -> None:
    q, k, v = tensors(20, 20)
    with pytest.raises(UnsupportedError, match="dropout_p: must be 0"):
        flash_attn.flash_attn_func(q, k, v, 0.1)
    with pytest.raises(UnsupportedError, match="alibi_slopes: must be None"):
        flash_attn.flash_attn_func(q, k, v, alibi_slopes=torch.ones(4))
    cu = torch.tensor([0, 20], dtype=torch.int32)
    for window in (5, None, (1,)):
        with pytest.raises(TypeError, match="window_size: must be a pair"):
            flash_attn.flash_attn_func(q, k, v, window_size=window)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="block_table: must be None"):
        flash_attn.flash_attn_varlen_func(
            q[0], k[0], v[0], cu, cu, 20, 20, block_table=torch.zeros(1, 1, dtype=torch.int32)
        )
    with pytest.raises(ValueError, match="q: must have 4 dimensions"):
        flash_attn.flash_attn_func(q[0], k, v)
    with pytest.raises(TypeError, match="q: must be a torch.Tensor"):
        flash_attn.flash_attn_func(q.numpy(), k, v)
    with pytest.raises(TypeError, match="cu_seqlens_k: must be an int32 or int64 tensor"):
        flash_attn.flash_attn_varlen_func(q[0], k[0], v[0], cu, cu.float(), 20, 20)
    with pytest.raises(ValueError, match="cu_seqlens_k: must describe as many sequences"):
        flash_attn.flash_attn_varlen_func(q[0], k[0], v[0], cu, torch.tensor([0, 5, 20]), 20, 20)
    with pytest.raises(ValueError, match="cu_seqlens_q: must rise from 0"):
        flash_attn.flash_attn_varlen_func(q[0], k[0], v[0], torch.tensor([0, 21]), cu, 20, 20)
    q.requires_grad_()
    with pytest.raises(UnsupportedError, match="Q: must not require a gradient"):
        flash_attn.flash_attn_func(q, k, v)


def test_gradients_under_sdpa_fallback() -> None:
    q, k, v = (t.requires_grad_() for t in tensors(20, 20))
    set_default_config(Config(fallback="sdpa"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = flash_attn.flash_attn_func(q, k, v, causal=True)
        cu = torch.tensor([0, 20], dtype=torch.int32)
        varlen = flash_attn.flash_attn_varlen_func(q[0], k[0], v[0], cu, cu, 20, 20, causal=True)
    (gradient,) = torch.autograd.grad(dense[0].square().sum(), q, retain_graph=True)
    (again,) = torch.autograd.grad(varlen.square().sum(), q)
    expected, _ = reference(q[0], k[0], v[0], causal=True)
    (right,) = torch.autograd.grad(expected.square().sum(), q)
    torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, right, rtol=1e-4, atol=1e-5)
