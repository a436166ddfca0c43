"""Special values, huge scales and memory that is no input."""

from __future__ import annotations

import re

import pytest
import torch

import gpu_tools
from blackwell_sparsek import attention_forward
from blackwell_sparsek.attention import plan
from gpu_tools import DEVICE, DTYPES, ON_GPU, check, qkv, randn
from oracle_tools import oracle

pytestmark = gpu_tools.gpu_only()

INF, NAN = torch.inf, torch.nan


def same_special_values(
    Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, special_v: int = -1, **options: object
) -> None:
    """NaN and inf in the places where the reference has them; elsewhere close to it.

    `special_v`: the key whose value is special; rows that do not see it, but have it in a tile that
    a GPU kernel computes for them, may be NaN where it is special (docs/numerics.md).
    """
    expected, _ = oracle(Q.cpu(), K.cpu(), V.cpu(), **options)
    expected = expected.to(DEVICE)
    for kernel in gpu_tools.takers(Q, K, V, **options):
        with gpu_tools.forced(kernel):
            line = plan(Q, K, V, **options)  # type: ignore[arg-type]
            result = attention_forward(Q, K, V, **options)  # type: ignore[arg-type]
        if special_v >= 0 and ON_GPU:
            reached = rows_that_compute(line, gpu_tools.visible(Q, K, **options), special_v)
            may_be_nan = reached[:, None] & ~V[:, :, special_v].isfinite()[:, :, None]
            excused = may_be_nan & expected.isfinite() & result.isnan()
            result = torch.where(excused, expected, result.double())
        assert torch.equal(result.isnan(), expected.isnan()), f"{line}: NaN in other places"
        assert torch.equal(result.isinf(), expected.isinf()), f"{line}: inf in other places"
        finite = expected.isfinite()
        error = (result.double() - expected)[finite].abs()
        assert error.numel() == 0 or float(error.max()) < 0.05, line


def rows_that_compute(line: str, seen: torch.Tensor | None, key: int) -> torch.Tensor:
    """bool [q_len]: rows in whose tile of queries some row sees some key of the tile with `key`."""
    found = re.search(r"tasks of (\d+) query rows, steps of (\d+) keys", line)
    assert found is not None and seen is not None, line
    q_tile, kv_tile = int(found[1]), int(found[2])
    first_key = key // kv_tile * kv_tile
    rows = seen[:, first_key : first_key + kv_tile].any(-1)
    tiles = [tile.any().expand(len(tile)) for tile in rows.split(q_tile)]
    return torch.cat(tiles)


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("name", ["Q", "K", "V"])
@pytest.mark.parametrize("q_len", [70, 300])
def test_special_value_in_an_unmasked_call(name: str, value: float, q_len: int) -> None:
    tensors = {n: randn(1, 2, q_len, 64, seed=i) for i, n in enumerate("QKV")}
    tensors[name][0, 1, q_len // 2, 5] = value
    same_special_values(*tensors.values())


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("options", [{"is_causal": True}, {"window": (20, 10)}], ids=str)
def test_special_keys_reach_only_the_rows_that_see_them(
    value: float, options: dict[str, object]
) -> None:
    Q, K, V = (randn(1, 2, 200, 64, seed=i) for i in range(3))
    K[0, 0, 100] = value
    same_special_values(Q, K, V, **options)


@pytest.mark.parametrize("value", [NAN, INF], ids=str)
@pytest.mark.parametrize("options", [{"is_causal": True}, {"window": (20, 10)}], ids=str)
def test_special_values_of_v_reach_only_the_rows_that_see_them(
    value: float, options: dict[str, object]
) -> None:
    Q, K, V = (randn(1, 2, 500, 64, seed=i) for i in range(3))
    V[0, 0, 300, 7] = value
    same_special_values(Q, K, V, special_v=300, **options)


@pytest.mark.parametrize("names", ["K", "V", "KV"])
def test_special_values_behind_a_bool_mask(names: str) -> None:
    """A batch with garbage at its end. A GPU kernel multiplies the values of masked keys by 0: they
    must be finite there, or only their own entry of the batch is NaN; the keys may be anything."""
    Q, K, V = (randn(2, 2, 150, 64, seed=i) for i in range(3))
    for name in names:
        (K if name == "K" else V)[0, :, 90:] = NAN
    keep = torch.ones(2, 1, 1, 150, dtype=torch.bool, device=DEVICE)
    keep[0, ..., 90:] = False
    clean = [t.nan_to_num(0.0) for t in (K, V)]
    for kernel in gpu_tools.takers(Q, K, V, attn_mask=keep):
        with gpu_tools.forced(kernel):
            result = attention_forward(Q, K, V, attn_mask=keep)
            expected = attention_forward(Q, *clean, attn_mask=keep)
        same = result == expected
        if ON_GPU and "V" in names:
            same[0] |= result[0].isnan()
        assert same.all(), kernel


@pytest.mark.parametrize("scale", [30.0, 1e4, -1e4, 1e30])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("lengths", [(133, 133), (5, 600)], ids=str)
def test_huge_scale_does_not_overflow(
    scale: float, head_dim: int, lengths: tuple[int, int]
) -> None:
    q_len, kv_len = lengths
    Q = randn(1, 2, q_len, head_dim, seed=0)
    K, V = (randn(1, 2, kv_len, head_dim, seed=i) for i in (1, 2))
    reference, reference_lse = gpu_tools.exact(Q, K, V, scale)
    for kernel in gpu_tools.takers(Q, K, V, scale=scale):
        with gpu_tools.forced(kernel):
            out, lse = attention_forward(Q, K, V, scale, return_lse=True)
        assert out.isfinite().all() and lse.isfinite().all(), kernel
        assert float((lse - reference_lse).abs().max() / reference_lse.abs().max()) < 1e-5, kernel
        # Scores of this size differ by whole units: away from ties the largest key takes all.
        assert float((out.double() - reference).abs().mean()) < 5e-3, kernel


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_largest_inputs(dtype: torch.dtype) -> None:
    """Scores beyond fp16's range stay in fp32; values at the end of the dtype's range survive."""
    Q, K, V = (randn(1, 2, 130, 64, dtype=dtype, seed=i) for i in range(3))
    check(Q * 200, K * 200, V, 1e-3)
    large = torch.finfo(dtype).max / 8
    check(Q, K, V.clamp(-4, 4) * (large / 4))


@pytest.mark.parametrize("scale", [0.0, -0.125, -1.0, 1e-30, 0.125])
def test_zero_negative_and_tiny_scales(scale: float) -> None:
    for head_dim, dtype in ((64, torch.float16), (128, torch.bfloat16)):
        check(*qkv(1, 2, 2, 150, 200, head_dim, dtype=dtype), scale)
        check(*qkv(1, 2, 1, 150, 200, head_dim, dtype=dtype), scale, is_causal="lower_right")


def test_rows_that_are_all_alike() -> None:
    """Equal scores everywhere: the output is the mean of the values, the LSE log(kv_len)."""
    Q, K = (torch.ones(1, 2, 130, 64, dtype=torch.float16, device=DEVICE) for _ in range(2))
    check(Q, K, randn(1, 2, 130, 64))


@pytest.mark.parametrize("lengths", [(1, 1), (65, 100), (129, 257), (200, 511)], ids=str)
@pytest.mark.parametrize("head_dim", [24, 64, 72, 128])
def test_memory_around_the_inputs_never_leaks_in(lengths: tuple[int, int], head_dim: int) -> None:
    """The same bits with NaN, with inf and with zeros around the inputs."""
    inside = [
        (t, t._base)
        for t in qkv(1, 2, 2, *lengths, head_dim)  # views of tensors filled with NaN
    ]
    Q, K, V = (t for t, _ in inside)
    for kernel in gpu_tools.takers(Q, K, V):
        results = []
        with gpu_tools.forced(kernel):
            for value in (NAN, INF, 0.0):
                for tensor, base in inside:
                    assert base is not None
                    numbers = tensor.clone()
                    base.fill_(value)
                    tensor.copy_(numbers)
                results.append(attention_forward(Q, K, V))
        assert results[0].isfinite().all(), kernel
        assert all(torch.equal(results[0], result) for result in results[1:]), kernel
