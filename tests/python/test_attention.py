"""attention_forward on the CPU against the fp64 oracle: shapes, strides, masks, special values."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek import _C, BlockMask, attention_forward
from blackwell_sparsek.attention import plan
from oracle_tools import assert_close, haloed, oracle

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@st.composite
def problems(draw: Any) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Sizes and options of a random problem, and the seed of its data."""
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    sizes = {
        "batch": draw(st.integers(1, 3)),
        "kv_heads": kv_heads,
        "q_heads": kv_heads * draw(st.sampled_from([1, 2, 4])),
        "q_len": draw(st.integers(1, 140)),
        "kv_len": draw(st.integers(1, 200)),
        "head_dim": draw(st.sampled_from([16, 24, 32, 64, 80, 128])),
        "v_head_dim": draw(st.sampled_from([16, 40, 64, 96])),
        "dtype": draw(st.sampled_from(DTYPES)),
        "heads_last": draw(st.booleans()),
    }
    options: dict[str, Any] = {
        "scale": draw(st.sampled_from([None, 0.3, -0.1, 0.0])),
        "is_causal": draw(st.sampled_from([False, True, "upper_left", "lower_right"])),
        "window": draw(st.sampled_from([None, (5, 0), (-1, 3), (0, 0), (70, 20)])),
        "softcap": draw(st.sampled_from([None, 2.0, 30.0])),
        "mask": draw(st.sampled_from([None, "bool", "float", "same dtype"])),
        "mask_full": draw(st.tuples(*[st.booleans()] * 4)),
        "blocks": draw(st.sampled_from([None, (64, 64), (128, 32), (64, 16)])),
        "block_heads": draw(st.sampled_from(["1", "kv", "q"])),
    }
    return sizes, options, draw(st.integers(0, 2**31))


def build(sizes: dict[str, Any], options: dict[str, Any], seed: int) -> tuple[Any, ...]:
    """The tensors of a problem (NaN all around them) and the call's keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    dtype = sizes["dtype"]

    def tensor(heads: int, length: int, dim: int) -> torch.Tensor:
        if sizes["heads_last"]:
            packed = haloed(sizes["batch"], length, heads, dim, dtype=dtype, generator=generator)
            return packed.transpose(1, 2)
        return haloed(sizes["batch"], heads, length, dim, dtype=dtype, generator=generator)

    q_len, kv_len = sizes["q_len"], sizes["kv_len"]
    Q = tensor(sizes["q_heads"], q_len, sizes["head_dim"])
    K = tensor(sizes["kv_heads"], kv_len, sizes["head_dim"])
    V = tensor(sizes["kv_heads"], kv_len, sizes["v_head_dim"])
    call = {name: options[name] for name in ("scale", "is_causal", "window", "softcap")}
    full = (sizes["batch"], sizes["q_heads"], q_len, kv_len)
    if options["mask"] is not None:
        shape = [size if keep else 1 for size, keep in zip(full, options["mask_full"], strict=True)]
        noise = torch.randn(shape, generator=generator)
        if options["mask"] == "bool":
            call["attn_mask"] = noise > -0.5
        else:
            noise = noise.masked_fill(noise < -1.5, -torch.inf)
            call["attn_mask"] = noise.to(
                dtype if options["mask"] == "same dtype" else torch.float32
            )
    if options["blocks"] is not None:
        block_q, block_k = options["blocks"]
        heads = {"1": 1, "kv": sizes["kv_heads"], "q": sizes["q_heads"]}[options["block_heads"]]
        dense = torch.rand(
            1, heads, -(-q_len // block_q), -(-kv_len // block_k), generator=generator
        )
        call["block_mask"] = BlockMask.from_dense(
            dense < 0.6, block_size=(block_q, block_k), q_len=q_len, kv_len=kv_len
        )
    return Q, K, V, call


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_equals_the_oracle(problem: tuple[dict[str, Any], dict[str, Any], int]) -> None:
    Q, K, V, call = build(*problem)
    result, lse = attention_forward(Q, K, V, return_lse=True, **call)
    again, lse_again = attention_forward(Q, K, V, return_lse=True, **call)
    assert torch.equal(result, again) and torch.equal(lse, lse_again)
    reference, reference_lse = oracle(Q, K, V, **call)
    # What rounding costs: the result's and P's in this dtype, and the scores' in fp32, whose absolute
    # error is a relative one of the weights.
    scale = Q.shape[-1] ** -0.5 if call["scale"] is None else abs(call["scale"])
    largest_score = scale * float(Q.float().norm(dim=-1).max() * K.float().norm(dim=-1).max())
    largest_value = float(V.abs().max())
    rounding = (8 * torch.finfo(Q.dtype).eps + 4e-7 * largest_score) * largest_value
    assert torch.equal(lse.isinf(), reference_lse.isinf())
    assert float((result.double() - reference).abs().max()) <= rounding
    empty = reference_lse == -torch.inf
    assert (result[empty] == 0).all()
    finite = ~empty
    if finite.any():
        error = (lse.double() - reference_lse.double())[finite].abs().max()
        assert float(error) <= 2e-5 * max(1.0, float(reference_lse[finite].abs().max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("length", [1, 2, 31, 64, 65, 127, 257])
def test_error_is_at_most_twice_torchs(dtype: torch.dtype, is_causal: bool, length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    Q, K, V = (haloed(2, 3, length, 64, dtype=dtype, generator=generator) for _ in range(3))
    result = attention_forward(Q, K, V, is_causal=is_causal)
    reference, _ = oracle(Q, K, V, is_causal=is_causal)
    assert_close(result, reference, scaled_dot_product_attention(Q, K, V, is_causal=is_causal))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", range(16, 257, 8))
def test_every_head_dim(dtype: torch.dtype, head_dim: int) -> None:
    generator = torch.Generator().manual_seed(head_dim)
    v_head_dim = 16 + (head_dim * 5) % 248 // 8 * 8
    Q = haloed(1, 2, 37, head_dim, dtype=dtype, generator=generator)
    K = haloed(1, 1, 45, head_dim, dtype=dtype, generator=generator)
    V = haloed(1, 1, 45, v_head_dim, dtype=dtype, generator=generator)
    reference, _ = oracle(Q, K, V)
    torch_result = scaled_dot_product_attention(Q, K, V, enable_gqa=True)
    assert_close(attention_forward(Q, K, V), reference, torch_result)


@pytest.mark.parametrize("shape", [(0, 2, 5, 7), (2, 0, 5, 7), (2, 2, 0, 7), (2, 2, 5, 0)])
def test_empty_tensors(shape: tuple[int, int, int, int]) -> None:
    batch, heads, q_len, kv_len = shape
    Q, K = torch.randn(batch, heads, q_len, 32), torch.randn(batch, heads, kv_len, 32)
    out, lse = attention_forward(Q, K, K, return_lse=True)
    assert out.shape == Q.shape and lse.shape == Q.shape[:3]
    assert (out == 0).all() and (lse == -torch.inf).all()


def test_rows_without_keys_are_zero() -> None:
    Q, K, V = (torch.randn(1, 2, 10, 32) for _ in range(3))
    mask = torch.ones(1, 1, 10, 10, dtype=torch.bool)
    mask[..., 3, :] = False
    for attn_mask in (mask, torch.zeros(10, 10).masked_fill(~mask[0, 0], -torch.inf)):
        out, lse = attention_forward(Q, K, V, attn_mask=attn_mask, return_lse=True)
        assert (out[:, :, 3] == 0).all() and (lse[:, :, 3] == -torch.inf).all()
        assert out[:, :, 4].abs().min() > 0 and lse[:, :, 4].isfinite().all()
    longer = torch.randn(1, 2, 14, 32)  # lower-right: the first four queries precede every key
    assert (attention_forward(longer, K, V, is_causal="lower_right")[:, :, :4] == 0).all()


def test_nan_and_inf_reach_only_the_rows_that_see_them() -> None:
    Q, K, V = (torch.randn(1, 1, 70, 32) for _ in range(3))
    V[..., 40, 5] = torch.nan
    K[..., 50, :] = torch.inf
    out = attention_forward(Q, K, V, is_causal=True)
    assert out[..., :40, :].isfinite().all()
    assert out[..., 40:, 5].isnan().all() and out[..., 40:50, 6].isfinite().all()
    reference, _ = oracle(Q, K, V, is_causal=True)
    assert torch.equal(out.isnan(), reference.isnan()) and reference[..., 50:, :].isnan().any()


@pytest.mark.parametrize("scale", [50.0, 1e4, -1e4])
def test_huge_scales_do_not_overflow(scale: float) -> None:
    Q, K, V = (torch.randn(1, 2, 33, 64) for _ in range(3))
    out, lse = attention_forward(Q, K, V, scale, return_lse=True)
    reference, reference_lse = oracle(Q, K, V, scale=scale)
    assert out.isfinite().all() and lse.isfinite().all()
    assert float((lse - reference_lse).abs().max() / reference_lse.abs().max()) < 1e-6
    # Scores of this size differ by whole units: away from ties the largest key takes all.
    assert float((out.double() - reference).abs().mean()) < 5e-3


def test_out_is_written_and_returned() -> None:
    Q, K, V = (torch.randn(2, 3, 20, 32) for _ in range(3))
    out = torch.full((2, 20, 3, 40), torch.nan).transpose(1, 2)[..., :32]
    assert attention_forward(Q, K, V, out=out) is out
    assert torch.equal(out, attention_forward(Q, K, V))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_result_lies_in_memory_as_queries_do(order: tuple[int, ...]) -> None:
    sizes = (2, 3, 6)  # batch, heads, length
    in_memory = torch.randn(*(sizes[dim] for dim in order), 32)
    Q = in_memory.permute(*(order.index(dim) for dim in range(3)), 3)
    for queries in (Q, Q[:, :, ::2], Q[:1], Q[:, :1], Q[:, :, :1]):
        keys = Q[: len(queries), :1]
        result, _ = attention_forward(queries, keys, keys, return_lse=True)
        strides = zip(
            result.shape, result.stride(), torch.empty_like(queries).stride(), strict=True
        )
        assert all(size == 1 or ours == torchs for size, ours, torchs in strides)
        copy = keys.contiguous()
        assert torch.equal(result, attention_forward(queries.contiguous(), copy, copy))


def test_results_of_other_libraries_tensors() -> None:
    """Allocated through DLPack, in the same layout, and freed."""

    class Other(torch.Tensor):
        pass

    rules = (None, 0, -1, -1, 0.0, None, None, False, None)
    transposed = torch.randn(1, 1 << 15, 2, 64).transpose(1, 2)
    keys = torch.randn(1, 2, 1, 64)
    for Q in (transposed, transposed.contiguous()):
        result = _C.attention_forward(Q.as_subclass(Other), keys, keys, *rules)
        assert result.stride() == Q.stride()
        assert torch.equal(result, attention_forward(Q, keys, keys))
        before = _resident_bytes()
        for _ in range(20):  # of 16 MiB each
            _C.attention_forward(Q.as_subclass(Other), keys, keys, *rules)
        assert _resident_bytes() - before < 100 << 20


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_rows_bits_do_not_depend_on_its_company() -> None:
    Q, K, V = (torch.randn(3, 4, 150, 64) for _ in range(3))
    whole = attention_forward(Q, K, V)
    assert torch.equal(whole[1:2, 2:3], attention_forward(Q[1:2, 2:3], K[1:2, 2:3], V[1:2, 2:3]))
    for row in (0, 63, 64, 149):
        one = attention_forward(Q[:, :, row : row + 1], K, V)
        assert torch.equal(whole[:, :, row : row + 1], one)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    Q, K, V = (torch.randn(2, 4, 300, 64) for _ in range(3))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(attention_forward(Q, K, V, is_causal=True))
            assert f", {threads} threads" in plan(Q, K, V)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_many_threads_may_call_at_once() -> None:
    Q, K, V = (torch.randn(2, 4, 100, 64) for _ in range(3))
    expected = attention_forward(Q, K, V)
    results: list[torch.Tensor | None] = [None] * 8

    def work(index: int) -> None:
        for _ in range(5):
            results[index] = attention_forward(Q, K, V)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(result is not None and torch.equal(result, expected) for result in results)


def test_expanded_and_negated_views() -> None:
    Q = torch.randn(4, 2, 20, 32)
    K, V = (torch.randn(1, 2, 30, 32).expand(4, 2, 30, 32) for _ in range(2))
    assert torch.equal(
        attention_forward(Q, K, V), attention_forward(Q, K.contiguous(), V.contiguous())
    )
    negative = (
        torch.randn(4, 2, 20, 32, dtype=torch.complex64).conj().imag
    )  # lazily negated, stride 2
    assert torch.equal(attention_forward(torch._neg_view(Q), K, V), attention_forward(-Q, K, V))
    assert negative.is_neg()
    assert torch.equal(attention_forward(negative, K, V), attention_forward(negative.clone(), K, V))


def test_autocast_casts_as_sdpa_does() -> None:
    Q, K, V = (torch.randn(1, 2, 20, 32) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert attention_forward(Q, K, V).dtype == torch.bfloat16
        assert scaled_dot_product_attention(Q, K, V).dtype == torch.bfloat16
    assert attention_forward(Q, K, V).dtype == torch.float32


def test_parameters_are_tensors() -> None:
    Q = torch.nn.Parameter(torch.randn(1, 2, 20, 32))
    with torch.no_grad():
        assert torch.equal(attention_forward(Q, Q, Q), attention_forward(*[Q.detach()] * 3))
    frozen = torch.nn.Parameter(Q.detach(), requires_grad=False)
    assert torch.equal(
        attention_forward(frozen, frozen, frozen), attention_forward(*[Q.detach()] * 3)
    )


def test_inference_mode() -> None:
    with torch.inference_mode():
        Q = torch.randn(1, 2, 20, 32)
        out = attention_forward(Q, Q, Q)
    assert torch.equal(out, attention_forward(Q, Q, Q))


def test_a_padding_mask_is_not_materialised() -> None:
    """A `[batch, 1, 1, kv_len]` mask over a problem whose full mask would take 64 GB."""
    Q, K = torch.randn(1, 1, 1, 16).expand(1, 1, 2**18, 16), torch.randn(1, 1, 2**18, 16)
    keep = torch.zeros(1, 1, 1, 2**18, dtype=torch.bool)
    keep[..., :8] = True
    out = attention_forward(Q[:, :, :64], K, K, attn_mask=keep)
    reference = attention_forward(Q[:, :, :64], K[:, :, :8], K[:, :, :8])
    torch.testing.assert_close(out, reference, rtol=1e-5, atol=1e-6)
