"""Long sequences: some rows against fp64, and what a mask must not cost in memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import gpu_tools
from blackwell_sparsek import attention_forward
from blackwell_sparsek.bench.cases import Blocks, Case
from blackwell_sparsek.bench.torch_attention import exact_rows, torch_result
from gpu_tools import ON_GPU, assert_close, needs_cuda, randn

pytestmark = gpu_tools.gpu_only()

LONG = Case(q_heads=8, q_len=8192, head_dim=128, dtype="bf16")
CASES = [
    dataclasses.replace(LONG, **changes)
    for changes in (
        {},
        {"is_causal": True},
        {"head_dim": 64, "v_head_dim": 64, "dtype": "fp16", "is_causal": True},
        {"head_dim": 64, "v_head_dim": 64, "q_len": 8111, "kv_len": 8111},
        {"q_len": 16384, "kv_len": 16384, "kv_heads": 2, "is_causal": True},
        {"q_len": 5, "kv_len": 30011, "is_causal": "lower_right"},
        {"kv_heads": 1, "q_len": 1000, "kv_len": 16000, "is_causal": "lower_right"},
        {"head_dim": 256, "v_head_dim": 256, "q_len": 4096, "kv_len": 4096, "dtype": "fp16"},
        {"head_dim": 80, "v_head_dim": 80, "q_len": 4001, "kv_len": 4001, "is_causal": True},
        {"window": (1024, 0), "is_causal": True},
        {"batch": 2, "mask": "padding", "q_len": 4096, "kv_len": 4096},
        {"blocks": Blocks(density=0.25)},
        {"blocks": Blocks(density=0.1, size=(64, 64)), "is_causal": True},
        {"blocks": Blocks("window", window=1024, sink=64)},
        {"blocks": Blocks("document", window=1000), "is_causal": True},
    )
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_rows_of_a_long_case(case: Case) -> None:
    if not ON_GPU:
        lengths = {"q_len": min(case.q_len, 300), "kv_len": min(case.kv_len, 400)}
        if case.blocks is not None:  # documents are of one length
            lengths["kv_len"] = lengths["q_len"]
        case = dataclasses.replace(case, **lengths)
    inputs = case.make(gpu_tools.DEVICE)
    last = case.q_len - 1
    rows = torch.randint(0, case.q_len, (120,), generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, torch.tensor([0, last, last // 2, min(last, 127), min(last, 128)])])
    reference = exact_rows(case, inputs, rows)
    torchs = torch_result(case, inputs)[:, :, rows]
    Q, K, V, options = inputs
    for kernel in gpu_tools.takers(Q, K, V, **options):
        with gpu_tools.forced(kernel):
            result = attention_forward(Q, K, V, **options)
        assert result.isfinite().all(), kernel
        assert_close(result[:, :, rows], reference, torchs, kernel)


@needs_cuda
def test_masks_are_not_materialised() -> None:
    """The full mask would be 2 GB as bool and 8 GB in fp32."""
    Q, K = randn(1, 8, 4096, 64), randn(1, 8, 65536, 64)
    keep = torch.arange(65536, device=Q.device)[None, None, None] < 60000
    added = randn(1, 8, 1, 65536).expand(1, 8, 4096, 65536)
    out = torch.empty_like(Q)
    for mask in (keep, keep.expand(1, 8, 4096, 65536), added):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        attention_forward(Q, K, K, attn_mask=mask, out=out)
        assert torch.cuda.max_memory_allocated() - before < 1 << 20
    shorter = attention_forward(Q, K[:, :, :60000], K[:, :, :60000])
    attention_forward(Q, K, K, attn_mask=keep, out=out)
    torch.testing.assert_close(out, shorter, rtol=1e-2, atol=1e-3)
