"""FlashAttention's names on the GPU against the fp64 oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gpu_tools
from blackwell_sparsek import flash_attn
from gpu_tools import DEVICE, assert_close, by_torch, exact, needs_cuda, randn

pytestmark = gpu_tools.gpu_only()

CASES: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"causal": True, "window_size": (17, 0)},
    {"window_size": (5, 9)},
    {"causal": True, "softcap": 3.0, "softmax_scale": 0.5},
]


def ours(options: dict[str, Any]) -> dict[str, Any]:
    """The same options for the oracle: FlashAttention's diagonal is the lower-right one."""
    names = {"window_size": "window", "softmax_scale": "scale", "softcap": "softcap"}
    found = {names[k]: v for k, v in options.items() if k != "causal"}
    return found | ({"is_causal": "lower_right"} if options.get("causal") else {})


def heads_first(*tensors: Tensor) -> list[Tensor]:
    return [t.transpose(1, 2) for t in tensors]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("lengths", [(133, 133), (60, 157), (157, 60)], ids=str)
def test_dense(options: dict[str, Any], lengths: tuple[int, int]) -> None:
    q, k, v = (
        randn(2, n, heads, 64, dtype=torch.bfloat16, seed=n + heads)
        for n, heads in zip((lengths[0], lengths[1], lengths[1]), (4, 2, 2), strict=True)
    )
    out, lse, _ = flash_attn.flash_attn_func(q, k, v, **options, return_attn_probs=True)
    reference, reference_lse = exact(*heads_first(q, k, v), **ours(options))
    torchs = by_torch(*heads_first(q, k, v), **ours(options))
    assert out.is_contiguous()
    assert_close(out.transpose(1, 2), reference, torchs)
    gpu_tools.assert_lse_close(lse, reference_lse)


Q_LENGTHS, KV_LENGTHS = (5, 0, 140, 1, 64), (9, 3, 140, 0, 200)


def _offsets(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor((0, *lengths)).cumsum(0).int().to(DEVICE)


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("same", [False, True])
def test_packed_sequences(options: dict[str, Any], same: bool) -> None:
    kv_lengths = Q_LENGTHS if same else KV_LENGTHS
    q = randn(sum(Q_LENGTHS), 4, 64, seed=1)
    k, v = (randn(sum(kv_lengths), 2, 64, seed=s) for s in (2, 3))
    cu_q = _offsets(Q_LENGTHS)
    cu_k = cu_q if same else _offsets(kv_lengths)
    out, lse, _ = flash_attn.flash_attn_varlen_func(
        q, k, v, cu_q, cu_k, 140, 200, **options, return_attn_probs=True
    )
    row = key = 0
    for q_len, kv_len in zip(Q_LENGTHS, kv_lengths, strict=True):
        one = [
            t[first : first + n].transpose(0, 1)[None]
            for t, first, n in ((q, row, q_len), (k, key, kv_len), (v, key, kv_len))
        ]
        if q_len:
            reference, reference_lse = exact(*one, **ours(options))
            result = out[row : row + q_len].transpose(0, 1)[None]
            torchs = by_torch(*one, **ours(options)) if kv_len else reference.half()
            assert_close(result, reference, torchs)
            gpu_tools.assert_lse_close(lse[None, :, row : row + q_len], reference_lse)
        row, key = row + q_len, key + kv_len


@needs_cuda
def test_packed_sequences_of_one_length_replay_in_a_graph() -> None:
    """One set of offsets for queries and keys: no host synchronisation, new offsets in a replay."""
    q, k, v = (randn(300, 4, 64, seed=s) for s in range(3))
    offsets = _offsets((100, 150, 50))

    def call() -> Tensor:
        return flash_attn.flash_attn_varlen_func(q, k, v, offsets, offsets, 300, 300, causal=True)

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    offsets.copy_(_offsets((10, 40, 250)))
    graph.replay()
    assert torch.equal(out, call())
