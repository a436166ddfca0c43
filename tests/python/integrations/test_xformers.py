"""xFormers' memory_efficient_attention on our operator, each bias against its own materialize()."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from blackwell_sparsek import BlockMask

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    xops = pytest.importorskip("xformers.ops", reason="xformers is not installed")

from xformers.ops.fmha import attn_bias as biases

from blackwell_sparsek.backends import (
    BlockSparseBias,
    SparseKAttention,
    SparseKBwOp,
    SparseKFwOp,
)

OP = (SparseKFwOp, SparseKBwOp)
Q_LEN, KV_LEN, HEADS, HEAD_DIM = 40, 56, 4, 32
Q_LENGTHS, KV_LENGTHS = [7, 20, 13], [9, 24, 23]


def reference(q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: float) -> tuple[Tensor, Tensor]:
    """By the bias's own materialize, in float64. [batch, length, heads, head_dim]."""
    q, k, v = (t.double().transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if isinstance(bias, Tensor):
        scores = scores + bias.double()
    elif bias is not None:
        scores = scores + bias.materialize(tuple(scores.shape)).double()
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2), scores.logsumexp(-1)


def tensors(batch: int, q_len: int, kv_len: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = [(batch, q_len, HEADS, HEAD_DIM), *[(batch, kv_len, HEADS, HEAD_DIM)] * 2]
    return [torch.randn(shape, generator=g) for shape in shapes]


BLOCKS = torch.tensor([[[[True]], [[False]], [[True]], [[True]]]])
DENSE: dict[str, Any] = {
    "none": lambda: None,
    "tensor": lambda: (
        torch.linspace(-2, 2, Q_LEN * KV_LEN).view(Q_LEN, KV_LEN).expand(2, HEADS, Q_LEN, KV_LEN)
    ),
    "causal": biases.LowerTriangularMask,
    "causal and tensor": lambda: biases.LowerTriangularMaskWithTensorBias(
        torch.linspace(-2, 2, Q_LEN * KV_LEN).view(Q_LEN, KV_LEN).expand(2, HEADS, Q_LEN, KV_LEN)
    ),
    "bottom right": biases.LowerTriangularFromBottomRightMask,
    "bottom right local": lambda: biases.LowerTriangularFromBottomRightLocalAttentionMask(11),
    "local": lambda: biases.LocalAttentionFromBottomRightMask(window_left=5, window_right=3),
    "block sparse": lambda: BlockSparseBias(BlockMask.from_dense(BLOCKS, 64)),
    "block sparse causal": lambda: BlockSparseBias(
        BlockMask.sliding_window(Q_LEN, KV_LEN, 20, block_size=64), "lower_right"
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_biases(name: str) -> None:
    q, k, v = tensors(2, Q_LEN, KV_LEN)
    bias = DENSE[name]()
    result = xops.memory_efficient_attention(q, k, v, bias, scale=0.3, op=OP)
    expected, expected_lse = reference(q, k, v, bias, 0.3)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    out, lse = xops.memory_efficient_attention_forward_requires_grad(
        q, k, v, bias, scale=0.3, op=SparseKFwOp
    )
    assert torch.equal(out, result)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)


def _padded(kind: Any, **options: Any) -> Any:
    make = getattr(kind, "from_seqlens_local", None) or kind.from_seqlens
    return make(q_seqlen=Q_LENGTHS, kv_padding=30, kv_seqlen=KV_LENGTHS, **options)


def _gappy(kind: Any) -> Any:
    return kind.from_seqlens(Q_LENGTHS, [2, 15, 45, 80], KV_LENGTHS)


TABLE = torch.tensor([[5, 1], [0, 3], [4, 2]], dtype=torch.int32)  # pages of 16 keys


def _paged(kind: Any) -> Any:
    return kind.from_seqlens(Q_LENGTHS, KV_LENGTHS, TABLE, 16)


def _paged_gappy(kind: Any) -> Any:
    # 0.0.35's own from_seqlens of the paged type asks for two different numbers of starts at once.
    unpaged = (
        biases.BlockDiagonalGappyKeysMask
        if "Causal" not in kind.__name__
        else (biases.BlockDiagonalCausalWithOffsetGappyKeysMask)
    )
    gappy = unpaged.from_seqlens(Q_LENGTHS, [3, 32, 64 + 7, 96], KV_LENGTHS)
    return gappy.make_paged(TABLE, 16, 32, kind)


PACKED: dict[str, Any] = {
    "BlockDiagonalMask": lambda t: t.from_seqlens(Q_LENGTHS, KV_LENGTHS),
    "BlockDiagonalCausalMask": lambda t: t.from_seqlens(Q_LENGTHS, KV_LENGTHS),
    "BlockDiagonalCausalFromBottomRightMask": lambda t: t.from_seqlens(Q_LENGTHS, KV_LENGTHS),
    "BlockDiagonalCausalLocalAttentionMask": lambda t: biases.BlockDiagonalCausalMask.from_seqlens(
        Q_LENGTHS, KV_LENGTHS
    ).make_local_attention(5),
    "BlockDiagonalCausalLocalAttentionFromBottomRightMask": lambda t: (
        biases.BlockDiagonalCausalMask.from_seqlens(
            Q_LENGTHS, KV_LENGTHS
        ).make_local_attention_from_bottomright(5)
    ),
    "BlockDiagonalPaddedKeysMask": _padded,
    "BlockDiagonalCausalWithOffsetPaddedKeysMask": _padded,
    "BlockDiagonalLocalAttentionPaddedKeysMask": lambda t: _padded(
        t, window_left=4, window_right=2
    ),
    "BlockDiagonalCausalLocalAttentionPaddedKeysMask": lambda t: _padded(t, window_size=6),
    "BlockDiagonalGappyKeysMask": _gappy,
    "BlockDiagonalCausalWithOffsetGappyKeysMask": _gappy,
    "PagedBlockDiagonalPaddedKeysMask": _paged,
    "PagedBlockDiagonalCausalWithOffsetPaddedKeysMask": _paged,
    "PagedBlockDiagonalGappyKeysMask": _paged_gappy,
    "PagedBlockDiagonalCausalWithOffsetGappyKeysMask": _paged_gappy,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_biases(name: str) -> None:
    bias = PACKED[name](getattr(biases, name))
    assert type(bias).__name__ == name
    if hasattr(bias, "block_tables"):
        kv_tokens = 6 * bias.page_size
    else:
        kv_tokens = bias.k_seqinfo.seqstart_py[-1]
    q, k, v = tensors(1, sum(Q_LENGTHS), kv_tokens)
    result = xops.memory_efficient_attention(q, k, v, bias, op=OP)
    if name.startswith("PagedBlockDiagonal") and "Gappy" in name:
        # Their materialize of this kind wants the unpaged shape: the meaning is written out.
        expected = torch.empty_like(q, dtype=torch.float64)
        causal = biases.LowerTriangularFromBottomRightMask() if "Causal" in name else None
        for i, (first, last) in enumerate(bias.q_seqinfo.intervals()):
            tokens = torch.cat([torch.arange(p * 16, p * 16 + 16) for p in TABLE[i].tolist()])
            start = [3, 0, 7][i]
            mine = tokens[start : start + KV_LENGTHS[i]]
            expected[:, first:last], _ = reference(
                q[:, first:last], k[:, mine], v[:, mine], causal, HEAD_DIM**-0.5
            )
    elif hasattr(bias, "block_tables"):
        shape = (1, HEADS, sum(Q_LENGTHS), 3 * 32)
        mask = bias.materialize(shape)
        expected, _ = reference(q, k, v, mask, HEAD_DIM**-0.5)
    else:
        expected, expected_lse = reference(q, k, v, bias, HEAD_DIM**-0.5)
        _, lse = xops.memory_efficient_attention_forward_requires_grad(
            q, k, v, bias, op=SparseKFwOp
        )
        torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_every_declared_bias_is_tested() -> None:
    declared = {t.__name__ for t in SparseKFwOp.SUPPORTED_ATTN_BIAS_TYPES}
    dense = {type(make()).__name__ for make in DENSE.values()}
    assert declared == dense | set(PACKED)


def test_grouped_heads_are_not_copied() -> None:
    q = torch.randn(2, 20, 3, 4, 32)  # [batch, length, groups, heads, head_dim]
    k, v = (torch.randn(2, 20, 3, 1, 32).expand(2, 20, 3, 4, 32) for _ in range(2))
    result = xops.memory_efficient_attention(q, k, v, biases.LowerTriangularMask(), op=OP)
    flat = [t.flatten(2, 3) for t in (q, k, v)]
    expected, lse = reference(*flat, biases.LowerTriangularMask(), 32**-0.5)
    torch.testing.assert_close(result.flatten(2, 3).double(), expected, rtol=1e-5, atol=1e-5)
    _, ours = xops.memory_efficient_attention_forward_requires_grad(
        q, k, v, biases.LowerTriangularMask(), op=SparseKFwOp
    )
    assert ours.shape == (2, 3, 4, 20)
    torch.testing.assert_close(ours.flatten(1, 2).double(), lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("empty", ["batch", "queries", "keys"])
def test_empty_inputs(empty: str) -> None:
    q, k, v = tensors(2, 8, 8)
    if empty == "batch":
        q, k, v = q[:0], k[:0], v[:0]
    elif empty == "queries":
        q = q[:, :0]
    else:
        k, v = k[:, :0], v[:, :0]
    result = xops.memory_efficient_attention(q, k, v, op=OP)
    assert torch.equal(result, torch.zeros_like(q))


@pytest.mark.parametrize("name", ["none", "causal", "block sparse"])
def test_compiles_without_a_graph_break(name: str) -> None:
    q, k, v = tensors(2, Q_LEN, KV_LEN)
    bias = DENSE[name]()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return xops.memory_efficient_attention(q, k, v, bias, op=OP)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v), attend(q, k, v))


def test_reasons_are_ours_and_theirs() -> None:
    inputs = xops.fmha.Inputs
    q, k, v = tensors(1, 8, 8)
    assert SparseKFwOp.not_supported_reasons(inputs(q, k, v)) == []
    half = [t.bfloat16() for t in (q, k, v)]
    assert SparseKFwOp.not_supported_reasons(inputs(*half)) == []
    assert "dropout > 0.0" in SparseKFwOp.not_supported_reasons(inputs(q, k, v, p=0.1))
    odd = [t[..., :20] for t in (q, k, v)]
    assert any("% 8" in r for r in SparseKFwOp.not_supported_reasons(inputs(*odd)))
    strided = torch.randn(1, 8, HEADS, 64)[..., ::2]
    assert any("stride 1" in r for r in SparseKFwOp.not_supported_reasons(inputs(strided, k, v)))
    with pytest.raises(ValueError, match="dropout"):
        xops.memory_efficient_attention(q, k, v, p=0.1, op=OP)


def test_packed_tokens_must_be_as_many_as_the_bias_counts() -> None:
    bias = biases.BlockDiagonalCausalFromBottomRightMask.from_seqlens(Q_LENGTHS, KV_LENGTHS)
    q, k, v = tensors(1, Q_LEN, KV_LEN)
    with pytest.raises(ValueError, match="query: must have the 40 tokens that attn_bias counts"):
        xops.memory_efficient_attention(q[:, 1:], k, v, bias, op=OP)
    with pytest.raises(ValueError, match="key: must have the 56 tokens that attn_bias counts"):
        xops.memory_efficient_attention(q, k[:, 1:], v[:, 1:], bias, op=OP)


def test_mslk_without_xformers() -> None:
    """xFormers' attention under MSLK's name stands for MSLK, whose classes are the same ones."""
    code = (
        "import sys, types, xformers.ops.fmha as fmha;"
        "sys.modules['mslk'] = types.ModuleType('mslk');"
        "sys.modules['mslk.attention'] = types.ModuleType('mslk.attention');"
        "sys.modules['mslk.attention.fmha'] = fmha;"
        "sys.modules['xformers.ops.fmha'] = None;"
        "from blackwell_sparsek.backends import SparseKFwOp as Fw, SparseKBwOp as Bw;"
        "import torch; q = torch.randn(1, 8, 2, 32);"
        "assert issubclass(Fw, fmha.AttentionFwOpBase);"
        "fmha.memory_efficient_attention(q, q, q, op=(Fw, Bw))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_backward_says_that_it_does_not_exist() -> None:
    q, k, v = (t.requires_grad_() for t in tensors(1, 8, 8))
    result = xops.memory_efficient_attention(q, k, v, op=OP)
    with pytest.raises(Exception, match="backward of BlackwellSparseK does not exist yet"):
        result.sum().backward()


def test_module_equals_the_operator() -> None:
    q, k, v = tensors(2, Q_LEN, KV_LEN)
    module = SparseKAttention(0.3, is_causal="lower_right", window=(10, -1))
    expected = xops.memory_efficient_attention(
        q, k, v, biases.LowerTriangularFromBottomRightLocalAttentionMask(11), scale=0.3, op=OP
    )
    assert torch.equal(module(q, k, v), expected)
    assert repr(module) == ("SparseKAttention(scale=0.3, is_causal='lower_right', window=(10, -1))")
