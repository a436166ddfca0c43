"""The split kernel (few queries, many keys) on a GPU, against the definition in float64.

`BSK_GPU_TESTS_ON=cpu` runs the same tests on the CPU kernel, which finds mistakes in the tests
where there is no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek import UnsupportedError, attention_forward
from blackwell_sparsek.core import Config, set_default_config

DEVICE = os.environ.get("BSK_GPU_TESTS_ON", "cuda")
KERNEL = "sm90_attention_forward_split" if DEVICE == "cuda" else "cpu_attention_forward"
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("needs a GPU; torch sees none here", allow_module_level=True)
if DEVICE == "cuda" and torch.cuda.get_device_capability() != (9, 0):
    pytest.skip("needs a GPU of compute capability 9.0", allow_module_level=True)

pytestmark = pytest.mark.gpu
FP16, BF16 = torch.float16, torch.bfloat16


@pytest.fixture(autouse=True)
def _only_this_kernel() -> Iterator[None]:
    set_default_config(Config(kernel=KERNEL))
    yield
    set_default_config(Config())


def haloed(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Random numbers in the midst of NaN; 16-byte aligned rows."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    padded = torch.full(
        (shape[0] + 2, shape[1] + 2, shape[2] + 16, shape[3] + 16),
        torch.nan,
        dtype=dtype,
        device=DEVICE,
    )
    view = padded[1:-1, 1:-1, 8:-8, 8:-8]
    view.copy_(torch.randn(shape, generator=generator, device=DEVICE))
    return view


def qkv(
    batch: int,
    q_heads: int,
    kv_heads: int,
    q_len: int,
    kv_len: int,
    head_dim: int,
    v_head_dim: int = 0,
    dtype: torch.dtype = FP16,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        haloed(batch, q_heads, q_len, head_dim, dtype=dtype, seed=1),
        haloed(batch, kv_heads, kv_len, head_dim, dtype=dtype, seed=2),
        haloed(batch, kv_heads, kv_len, v_head_dim or head_dim, dtype=dtype, seed=3),
    )


def visible(q_len: int, kv_len: int, options: dict[str, Any]) -> Tensor:
    """[q_len, kv_len] or more dimensions: True where the boolean rules leave a pair."""
    upper_left = options.get("is_causal") in (True, "upper_left")
    key = torch.arange(kv_len, device=DEVICE)
    diagonal = torch.arange(q_len, device=DEVICE)[:, None]
    diagonal = diagonal + (0 if upper_left else kv_len - q_len)
    left, right = options.get("window") or (-1, -1)
    if options.get("is_causal"):
        right = 0
    result = torch.ones(q_len, kv_len, dtype=torch.bool, device=DEVICE)
    if left >= 0:
        result = result & (key >= diagonal - left)
    if right >= 0:
        result = result & (key <= diagonal + right)
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        result = result & mask
    return result


def exact(Q: Tensor, K: Tensor, V: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """`(output, lse)` in float64."""
    group = Q.shape[1] // K.shape[1]
    K, V = (x.double().repeat_interleave(group, 1) for x in (K, V))
    scale = options.get("scale")
    scores = Q.double() @ K.mT * (Q.shape[3] ** -0.5 if scale is None else scale)
    if options.get("softcap"):
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask.double()
    scores = scores.masked_fill(~visible(Q.shape[2], K.shape[2], options), -torch.inf)
    lse = scores.logsumexp(-1)
    lse = lse.masked_fill(lse == torch.inf, torch.nan)  # inf - inf, as in every softmax
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()
    return weights @ V, lse


def check(Q: Tensor, K: Tensor, V: Tensor, **options: Any) -> Tensor:
    """Special values in the same places; error at most 2x torch's own, plus one spacing."""
    out = torch.full((*Q.shape[:3], V.shape[3] + 8), torch.nan, dtype=Q.dtype, device=DEVICE)
    result, lse = attention_forward(Q, K, V, return_lse=True, out=out[..., : V.shape[3]], **options)
    assert out[..., V.shape[3] :].isnan().all(), "wrote beyond the rows"
    expected, expected_lse = exact(Q, K, V, **options)
    one = float(expected[expected.isfinite()].abs().max()) * torch.finfo(Q.dtype).eps
    allowed = 4 * one
    if not options.get("softcap"):
        mask = visible(Q.shape[2], K.shape[2], options)
        bias = options.get("attn_mask")
        if bias is not None and bias.dtype != torch.bool:
            mask = torch.zeros_like(mask, dtype=Q.dtype).masked_fill(~mask, -torch.inf) + bias.to(
                Q.dtype
            )
        theirs = scaled_dot_product_attention(
            Q, K, V, attn_mask=mask, scale=options.get("scale"), enable_gqa=True
        )
        both = expected.isfinite() & theirs.isfinite()
        allowed = 2 * float((theirs.double() - expected)[both].abs().max()) + one
    assert torch.equal(result.isnan(), expected.isnan())
    finite = expected.isfinite()
    error = float((result.double() - expected)[finite].abs().max())
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"
    torch.testing.assert_close(lse.double(), expected_lse, rtol=2e-5, atol=2e-5, equal_nan=True)
    return result


SHAPES = {  # batch, q_heads, kv_heads, q_len, kv_len, head_dim
    "llama_1k": (1, 32, 8, 1, 1024, 128),
    "llama_8k": (1, 32, 8, 1, 8192, 128),
    "llama_64k": (1, 32, 8, 1, 65536, 128),
    "llama_batch": (17, 32, 8, 1, 1500, 128),
    "mha_d64_8k": (1, 8, 8, 1, 8192, 64),
    "mha_40_heads": (1, 40, 40, 1, 3001, 128),
    "mqa_71_heads": (2, 71, 1, 1, 2000, 64),
    "mqa_128_heads": (1, 128, 1, 1, 5000, 128),
    "many_heads_one_split": (1, 300, 300, 1, 300, 64),
    "shortest": (3, 4, 2, 1, 257, 64),
    "llama_large_batch": (70, 32, 8, 1, 1500, 128),
    "mha_batch": (9, 16, 16, 1, 1900, 64),
    "sixteen_rows": (3, 32, 8, 4, 4099, 128),
    "sixteen_rows_d64": (40, 8, 2, 4, 2500, 64),
    "speculative": (2, 32, 8, 5, 4099, 128),
    "whole_tile": (1, 8, 8, 64, 4096, 64),
    "two_tiles": (2, 8, 8, 100, 2049, 128),
    "group3_two_tiles": (1, 12, 4, 40, 1111, 64),
    "d256": (1, 8, 2, 3, 2000, 256),
    "d192": (1, 8, 2, 3, 2000, 192),
    "d96": (1, 12, 4, 1, 2000, 96),
    "d40": (1, 4, 4, 1, 999, 40),
    "d16": (1, 4, 4, 7, 999, 16),
}
MASKS: dict[str, dict[str, Any]] = {
    "full": {},
    "lower_right": {"is_causal": "lower_right"},
    "upper_left": {"is_causal": True},
    "window": {"window": (300, 0)},
    "causal_window": {"is_causal": "lower_right", "window": (77, -1)},
    "window_of_one": {"window": (0, 0)},
}


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_shapes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(*qkv(*shape, dtype=dtype), is_causal="lower_right")


@pytest.mark.parametrize("options", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize(
    "shape",
    ["sixteen_rows", "sixteen_rows_d64", "speculative", "two_tiles", "group3_two_tiles", "d256"],
)
def test_masks(shape: str, options: dict[str, Any]) -> None:
    check(*qkv(*SHAPES[shape]), **options)


@pytest.mark.parametrize("kv_len", [257, 263, 383, 384, 385, 511, 512, 513, 1021, 2048, 2049, 4093])
def test_lengths(kv_len: int) -> None:
    for q_len in (1, 2, 4, 13):
        for head_dim in (64, 128):
            check(*qkv(1, 8, 2, q_len, kv_len, head_dim), is_causal="lower_right")
            check(*qkv(40, 8, 2, q_len, kv_len, head_dim), is_causal="lower_right")


@pytest.mark.parametrize("group", range(1, 17))
def test_groups(group: int) -> None:
    for q_len in (1, 16 // group, 3, 128 // group):
        check(*qkv(2, 2 * group, 2, q_len, 700, 64), is_causal="lower_right")


def test_different_head_dims() -> None:
    check(*qkv(1, 8, 2, 4, 1500, 192, 128))
    check(*qkv(1, 8, 2, 4, 1500, 64, 128))
    check(*qkv(1, 8, 2, 4, 1500, 40, 24))


@pytest.mark.parametrize("scale", [30.0, 1e-4, 0.0, -0.3])
def test_scales(scale: float) -> None:
    check(*qkv(1, 8, 2, 3, 1500, 64), scale=scale)


def test_softcap() -> None:
    check(*qkv(1, 8, 2, 3, 1500, 64), softcap=5.0, is_causal="lower_right")
    check(*qkv(1, 8, 2, 3, 1500, 128), softcap=20.0)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("kind", ["padding", "heads", "fp16", "fp32"])
@pytest.mark.parametrize("q_len", [3, 7])  # 12 and 28 rows
def test_attn_masks(q_len: int, kind: str, head_dim: int) -> None:
    Q, K, V = qkv(3, 8, 2, q_len, 1500, head_dim)
    generator = torch.Generator(DEVICE).manual_seed(9)
    if kind == "padding":  # lengths of 700, none, and all
        lengths = torch.tensor([700, 0, 1500], device=DEVICE)[:, None, None, None]
        mask = torch.arange(1500, device=DEVICE) < lengths
    else:
        noise = torch.randn(1, 8, q_len, 1500, generator=generator, device=DEVICE)
        mask = noise > -0.5 if kind == "heads" else noise.half() if kind == "fp16" else noise
    result = check(Q, K, V, attn_mask=mask, is_causal="lower_right")
    if kind == "padding":
        assert not result[1].any(), "a row that sees nothing is zero"


def test_special_values() -> None:
    Q, K, V = qkv(1, 8, 2, 3, 1500, 64)
    Q[0, 3, 1, 5] = torch.nan
    result = check(Q, K, V)
    assert result[0, 3, 1].isnan().all() and not result[0, 3, 0].isnan().any()
    Q, K, V = qkv(1, 8, 2, 3, 1500, 64)
    K[0, 1, 900, 0] = torch.inf
    check(Q, K, V)


def test_strides() -> None:
    transposed = [  # as [batch, rows, heads, head_dim]
        haloed(2, rows, heads, 64, dtype=FP16, seed=rows).transpose(1, 2)
        for rows, heads in ((5, 8), (700, 2), (701, 2))
    ]
    check(transposed[0], transposed[1], transposed[2][:, :, :700])
    Q, K, V = qkv(1, 8, 2, 3, 700, 64)
    check(*(x.expand(4, -1, -1, -1) for x in (Q, K, V)))


@pytest.mark.parametrize(
    "shape", ["llama_8k", "llama_large_batch", "speculative", "two_tiles", "d256"]
)
def test_the_same_bits_always(shape: str) -> None:
    Q, K, V = qkv(*SHAPES[shape])
    first = attention_forward(Q, K, V, return_lse=True)
    for _ in range(50):
        again = attention_forward(Q, K, V, return_lse=True)
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


@pytest.mark.parametrize(
    "shape",
    [
        *("llama_batch", "llama_large_batch", "mha_batch", "sixteen_rows", "sixteen_rows_d64"),
        *("speculative", "two_tiles", "mqa_71_heads"),
    ],
)
def test_the_same_bits_in_any_batch(shape: str) -> None:
    Q, K, V = qkv(*SHAPES[shape])
    together = attention_forward(Q, K, V)
    for i in range(Q.shape[0]):
        assert torch.equal(
            attention_forward(Q[i : i + 1], K[i : i + 1], V[i : i + 1])[0], together[i]
        )


@pytest.mark.skipif(DEVICE != "cuda", reason="is about CUDA itself")
def test_graphs_replay_with_new_contents() -> None:
    Q, K, V = qkv(1, 32, 8, 1, 4096, 128)
    out = torch.empty_like(Q)
    attention_forward(Q, K, V, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(20):
            attention_forward(Q, K, V, out=out)
    Q.copy_(torch.randn_like(Q))
    V.copy_(torch.randn_like(V))
    out.fill_(torch.nan)
    graph.replay()
    assert torch.equal(out, attention_forward(Q, K, V))


@pytest.mark.skipif(DEVICE != "cuda", reason="is about CUDA itself")
def test_an_output_that_is_not_aligned_is_an_error() -> None:
    Q, K, V = qkv(1, 8, 2, 1, 1024, 64)
    out = torch.empty(1, 8, 1, 72, dtype=FP16, device=DEVICE)[..., 4:68]
    with pytest.raises(UnsupportedError, match="out to start at a multiple of 16 bytes"):
        attention_forward(Q, K, V, out=out)
