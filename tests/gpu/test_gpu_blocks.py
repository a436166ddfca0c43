"""Block masks: every pattern, built on the device, x causal x grouped heads x ragged lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gpu_tools
from blackwell_sparsek import BlockMask, attention_forward
from block_mask_cases import assert_same
from gpu_tools import DEVICE, check, generator, qkv, randn

pytestmark = gpu_tools.gpu_only()

Build = Callable[[int, int, Any], BlockMask]


def _ints(values: list[int], device: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def _scores(n: int, m: int, size: int, heads: int, device: Any) -> torch.Tensor:
    noise = torch.Generator().manual_seed(5)
    return torch.randn(1, heads, -(-n // size), -(-m // size), generator=noise).to(device)


def _mask_mod(_b: Any, _h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (q - k).abs() % 100 < 60


def _from_flex(n: int, m: int, device: Any) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    return BlockMask.from_flex(create_block_mask(_mask_mod, 1, 1, n, m, device=device))


PATTERNS: dict[str, Build] = {
    "window": lambda n, m, d: BlockMask.sliding_window(n, m, 50, 3, sink=5, device=d),
    "window 64x32": lambda n, m, d: BlockMask.sliding_window(
        n, m, 150, block_size=(64, 32), device=d
    ),
    "window 128x16": lambda n, m, d: BlockMask.sliding_window(
        n, m, 80, sink=20, block_size=(128, 16), device=d
    ),
    "vertical slash": lambda n, m, d: BlockMask.vertical_slash(
        _ints([3, 120, -1], d)[None, None], _ints([0, 90], d)[None, None], q_len=n, kv_len=m
    ),
    "top-k": lambda n, m, d: BlockMask.top_k(
        _scores(n, m, 64, 4, d), 2, block_size=64, q_len=n, kv_len=m
    ),
    "cumulative mass": lambda n, m, d: BlockMask.cumulative_mass(
        _scores(n, m, 128, 1, d) * 3, 0.7, q_len=n, kv_len=m
    ),
    "strided": lambda n, m, d: BlockMask.strided(n, m, 2, block_size=64, device=d),
    "indices": lambda n, m, d: BlockMask.from_indices(
        None,
        _ints([2, 0, -1, 2], d).expand(1, 1, -(-n // 64), 4),
        block_size=64,
        q_len=n,
        kv_len=m,
    ),
    "flex": _from_flex,
    "nothing": lambda n, m, d: BlockMask.random(n, m, 0.0, device=d),
    "everything": lambda n, m, d: BlockMask.random(n, m, 1.0, block_size=64, device=d),
    "document": lambda n, m, d: BlockMask.document(
        torch.arange(n, device=d)[None] // 70, block_size=64
    ),
    "padded documents": lambda n, m, d: BlockMask.document(
        torch.arange(n, device=d)[None] // 70 - 1, block_size=(64, 16)
    ),
    "cu_seqlens": lambda n, m, d: BlockMask.document(
        cu_seqlens=_ints([0, 100, 101, 101, 200, n], d), q_len=n, max_document_len=n
    ),
}
OF_ONE_LENGTH = ("document", "padded documents", "cu_seqlens")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("is_causal", [False, True, "lower_right"])
@pytest.mark.parametrize("lengths", [(273, 273), (300, 417), (256, 256)], ids=str)
def test_pattern(pattern: str, is_causal: bool | str, lengths: tuple[int, int]) -> None:
    n, m = lengths
    if pattern in OF_ONE_LENGTH:
        m = n
    mask = PATTERNS[pattern](n, m, DEVICE)
    assert mask.device.type == DEVICE
    for dtype, head_dim, kv_heads in ((torch.bfloat16, 128, 1), (torch.float16, 64, 4)):
        Q, K, V = qkv(2, 4, kv_heads, n, m, head_dim, dtype=dtype)
        check(Q, K, V, block_mask=mask, is_causal=is_causal)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_device_builds_what_the_cpu_builds(pattern: str) -> None:
    here, there = (PATTERNS[pattern](400, 400, device) for device in (DEVICE, "cpu"))
    assert_same(here, there)


@pytest.mark.parametrize("block_k", [16, 32, 64, 128])
@pytest.mark.parametrize("block_q", [64, 128])
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_block_size(block_q: int, block_k: int, density: float) -> None:
    """All heads different, some rows empty; head dims below and above the tuned ones."""
    n, m = 333, 401
    blocks = (2, 4, -(-n // block_q), -(-m // block_k))
    dense = torch.rand(blocks, generator=generator(block_k), device=DEVICE) < density
    dense[:, 1, 0] = False
    mask = BlockMask.from_dense(dense, (block_q, block_k), q_len=n, kv_len=m)
    for head_dim in (64, 128):
        check(*qkv(2, 4, 2, n, m, head_dim), block_mask=mask)
        check(*qkv(2, 4, 4, n, m, head_dim), block_mask=mask, is_causal="lower_right")


@pytest.mark.parametrize("head_dim", [32, 80, 96, 160, 192, 256])
def test_other_head_dims(head_dim: int) -> None:
    for size in ((64, 64), (128, 32)):
        mask = BlockMask.random(
            200, 333, 0.4, heads=2, block_size=size, generator=generator(1), device=DEVICE
        )
        check(*qkv(1, 4, 2, 200, 333, head_dim), block_mask=mask)


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_mask_heads_and_batch(heads: int, batch: int) -> None:
    """One mask for all, one per KV head, one per query head."""
    dense = torch.rand(batch, heads, 4, 4, generator=generator(heads), device=DEVICE) < 0.5
    mask = BlockMask.from_dense(dense, 64, q_len=250, kv_len=230)
    check(*qkv(3, 8, 2, 250, 230, 64), block_mask=mask)


def test_skewed_rows_one_key_and_one_row() -> None:
    dense = torch.zeros(1, 2, 8, 8, dtype=torch.bool, device=DEVICE)
    dense[0, 0, 3] = True  # one full row, the others empty
    dense[0, 1, :, 5] = True
    check(*qkv(1, 2, 2, 512, 512, 64), block_mask=BlockMask.from_dense(dense, 64))
    one = BlockMask.from_dense(torch.ones(1, 1, 3, 1, dtype=torch.bool, device=DEVICE), 64)
    check(*qkv(1, 2, 2, 180, 1, 64), block_mask=one)
    row = BlockMask.random(1, 700, 0.5, block_size=64, generator=generator(0), device=DEVICE)
    check(*qkv(2, 4, 2, 1, 700, 128), block_mask=row)


def _rows_of_any_lengths(kv_blocks: int, seed: int) -> torch.Tensor:
    """[1, 9, 40, kv_blocks]: few rows long, many short, some empty."""
    noise = generator(seed)
    share = torch.rand(1, 9, 40, 1, generator=noise, device=DEVICE) ** 4
    return torch.rand(1, 9, 40, kv_blocks, generator=noise, device=DEVICE) < share


@pytest.mark.parametrize("size", [(128, 128), (128, 64), (128, 16)], ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_more_rows_of_any_lengths_than_ctas(size: tuple[int, int], head_dim: int) -> None:
    """Which CTA computes which rows is planned on the device; in steep scores some rows are
    computed twice."""
    mask = BlockMask.from_dense(_rows_of_any_lengths(1024 // size[1], 1), size)
    Q, K, V = qkv(1, 9, 9, 40 * 128 - 5, 1021, head_dim)
    check(Q, K, V, block_mask=mask)
    check(Q, K, V, 1.0, block_mask=mask)


@gpu_tools.needs_cuda
def test_a_graph_plans_the_rows_of_a_changed_mask_anew() -> None:
    mask = BlockMask.from_dense(_rows_of_any_lengths(8, 1), 128)
    Q, K, V = qkv(1, 9, 9, 40 * 128, 1024, 64)
    out = attention_forward(Q, K, V, block_mask=mask)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attention_forward(Q, K, V, block_mask=mask, out=out)
    for seed in range(2, 6):
        mask.update_(_rows_of_any_lengths(8, seed))
        graph.replay()
        assert torch.equal(out, attention_forward(Q, K, V, block_mask=mask))
        check(Q, K, V, block_mask=mask)


OTHERS: list[dict[str, Any]] = [
    {"window": (90, 40)},
    {"softcap": 10.0, "is_causal": True},
    {"attn_mask": "bool", "is_causal": "lower_right"},
    {"attn_mask": "additive", "window": (200, -1), "softcap": 20.0},
]


@pytest.mark.parametrize("options", OTHERS, ids=str)
@pytest.mark.parametrize("pattern", ["window 64x32", "top-k", "flex"])
def test_with_other_masks(options: dict[str, Any], pattern: str) -> None:
    mask = PATTERNS[pattern](300, 380, DEVICE)
    noise = randn(2, 1, 300, 380, seed=4)
    attn_mask = {"bool": noise > -0.3, "additive": noise}.get(options.get("attn_mask", ""))
    options = {**options, "attn_mask": attn_mask} if attn_mask is not None else options
    check(*qkv(2, 4, 2, 300, 380, 64), block_mask=mask, **options)


def test_update_changes_the_next_call() -> None:
    Q, K, V = qkv(1, 2, 2, 256, 256, 64)
    mask = BlockMask.from_dense(torch.ones(1, 1, 4, 4, dtype=torch.bool, device=DEVICE), 64)
    check(Q, K, V, block_mask=mask)
    changed = torch.rand(1, 1, 4, 4, generator=generator(0), device=DEVICE) < 0.5
    check(Q, K, V, block_mask=mask.update_(changed))


def test_skipped_blocks_are_not_read() -> None:
    """NaN in keys and values that no list names leaves no trace."""
    Q, K, V = (randn(1, 2, 384, 64, seed=i) for i in range(3))
    K[:, :, 128:256] = V[:, :, 128:256] = torch.nan
    kept = [*range(128), *range(256, 384)]
    for size in (64, 128):
        dense = torch.ones(1, 1, 384 // size, 384 // size, dtype=torch.bool, device=DEVICE)
        dense[..., 128 // size : 256 // size] = False
        mask = BlockMask.from_dense(dense, size)
        for kernel in gpu_tools.takers(Q, K, V, block_mask=mask):
            with gpu_tools.forced(kernel):
                result = attention_forward(Q, K, V, block_mask=mask)
            reference, _ = gpu_tools.exact(Q, K[:, :, kept], V[:, :, kept])
            torchs = gpu_tools.by_torch(Q, K[:, :, kept], V[:, :, kept])
            gpu_tools.assert_close(result, reference, torchs, kernel)


@gpu_tools.needs_cuda  # on the CPU making such a mask raises
def test_an_index_out_of_range_is_skipped() -> None:
    """Lists on a GPU are not read back: what lies outside must neither be read nor crash."""
    Q, K, V = qkv(1, 1, 1, 128, 256, 64)
    counts = _ints([3, 2], DEVICE)[None, None]
    indices = _ints([0, 2, 9, 1, 3, 0], DEVICE).view(1, 1, 2, 3)
    wrong = BlockMask(counts, indices, block_size=64, kv_blocks=4)
    dense = _ints([1, 0, 1, 0, 0, 1, 0, 1], DEVICE).view(1, 1, 2, 4).bool()
    right = BlockMask.from_dense(dense, 64)
    for kernel in gpu_tools.takers(Q, K, V, block_mask=right):
        with gpu_tools.forced(kernel):
            result = attention_forward(Q, K, V, block_mask=wrong)
            assert torch.equal(result, attention_forward(Q, K, V, block_mask=right))
