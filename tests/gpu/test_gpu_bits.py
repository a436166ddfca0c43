"""Same input, same bits: over repeats, in any batch, whatever ran before, from many threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import gpu_tools
from blackwell_sparsek import BlockMask, attention_forward
from gpu_tools import DEVICE, DTYPES, ON_GPU, forced, generator, qkv, randn, takers

pytestmark = gpu_tools.gpu_only()

REPEATS = 100 if ON_GPU else 3


def _options() -> dict[str, dict[str, Any]]:
    blocks = torch.rand(1, 4, 8, 8, generator=generator(0), device=DEVICE) < 0.4
    return {
        "plain": {},
        "causal": {"is_causal": True},
        "blocks": {"block_mask": BlockMask.from_dense(blocks, 64)},
        "scores": {"softcap": 10.0, "attn_mask": randn(512, 512)},
    }


@pytest.mark.parametrize("options", ["plain", "causal", "blocks", "scores"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_repeats_give_the_same_bits(options: str, head_dim: int) -> None:
    tensors, call = qkv(2, 4, 2, 512, 512, head_dim), _options()[options]
    for kernel in takers(*tensors, **call):
        with forced(kernel):
            first, first_lse = attention_forward(*tensors, return_lse=True, **call)
            different = torch.zeros((), dtype=torch.int64, device=DEVICE)
            for _ in range(REPEATS):
                result, lse = attention_forward(*tensors, return_lse=True, **call)
                different += (result != first).sum() + (lse != first_lse).sum()
        assert int(different) == 0, kernel


BATCH_SIZES = (1, 64, 128, 200, 512, 1024)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("length", BATCH_SIZES)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("company", [3, 16])
def test_a_batch_row_alone_gives_the_same_bits(
    length: int, head_dim: int, dtype: torch.dtype, is_causal: bool, company: int
) -> None:
    """In the default mode: whatever kernel and tile size the number of rows makes it choose."""
    Q, K, V = (randn(company, 8, length, head_dim, dtype=dtype, seed=i) for i in range(3))
    whole, whole_lse = attention_forward(Q, K, V, is_causal=is_causal, return_lse=True)
    for row in (0, company - 1):
        one = slice(row, row + 1)
        alone, lse = attention_forward(Q[one], K[one], V[one], is_causal=is_causal, return_lse=True)
        assert torch.equal(whole[one], alone), f"row {row} of {company}"
        assert torch.equal(whole_lse[one], lse)


@pytest.mark.parametrize("q_len", [1, 4, 17])
@pytest.mark.parametrize("kv_len", [500, 3000])
def test_few_queries_against_many_keys_in_any_batch(q_len: int, kv_len: int) -> None:
    """Where the keys of a query may be split, the split must not follow from the batch."""
    Q, K, V = (randn(16, 4, n, 64, seed=i) for i, n in enumerate((q_len, kv_len, kv_len)))
    whole = attention_forward(Q, K, V, is_causal="lower_right")
    for rows in (slice(0, 1), slice(15, 16), slice(4, 7)):
        alone = attention_forward(Q[rows], K[rows], V[rows], is_causal="lower_right")
        assert torch.equal(whole[rows], alone), rows


@pytest.mark.parametrize("length", [128, 512, 1024])
def test_a_row_alone_gives_the_same_bits_under_masks(length: int) -> None:
    Q, K, V = (randn(3, 4, length, 64, seed=i) for i in range(3))
    blocks = torch.rand(3, 4, length // 64, length // 64, generator=generator(1), device=DEVICE)
    mask = randn(3, 1, 1, length, seed=7) > -1
    for batch_options in ({"attn_mask": mask}, {"block_mask": blocks < 0.5}):
        results = []
        for rows in (slice(0, 3), slice(1, 2)):
            options = {name: tensor[rows] for name, tensor in batch_options.items()}
            if "block_mask" in options:
                options["block_mask"] = BlockMask.from_dense(options["block_mask"], 64)
            results.append(attention_forward(Q[rows], K[rows], V[rows], **options))
        assert torch.equal(results[0][1:2], results[1]), batch_options.keys()


@pytest.mark.parametrize("q_len", [1, 64, 100, 500])
def test_the_company_does_not_matter(q_len: int) -> None:
    """Whatever the other entries of the batch hold (NaN too), and however many there are."""
    one = [randn(1, 8, n, 64, seed=i) for i, n in enumerate((q_len, 512, 512))]
    alone, alone_lse = attention_forward(*one, return_lse=True)
    for others in (randn(1, 8, 512, 64, seed=9), torch.full((4, 8, 512, 64), torch.nan)):
        others = others.to(DEVICE, one[0].dtype)
        batch = [torch.cat((others[:, :, : t.shape[2]], t)) for t in one]
        result, lse = attention_forward(*batch, return_lse=True)
        assert torch.equal(result[-1:], alone) and torch.equal(lse[-1:], alone_lse)


def test_many_threads_may_call_at_once() -> None:
    shapes = [(64, 128), (64, 700), (128, 300), (80, 333)]
    problems = [qkv(2, 4, 2, length, length, dim, seed=dim) for dim, length in shapes]
    expected = [attention_forward(*tensors, is_causal=True) for tensors in problems]
    failures: list[str] = []

    def work(index: int) -> None:
        try:
            stream = torch.cuda.Stream() if ON_GPU and index % 2 else None
            with torch.cuda.stream(stream):
                for turn in range(20 if ON_GPU else 2):
                    which = (index + turn) % len(problems)
                    result = attention_forward(*problems[which], is_causal=True)
                    if not torch.equal(result, expected[which]):
                        failures.append(f"thread {index}, turn {turn}, {shapes[which]}")
        except Exception as error:
            failures.append(repr(error))

    if ON_GPU:
        torch.cuda.synchronize()
    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
