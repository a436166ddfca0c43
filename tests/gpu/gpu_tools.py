"""What the GPU tests share: the device, an fp64 oracle on it, inputs in a halo of NaN, one check.

`BSK_GPU_TESTS_ON=cpu` runs the same tests on the CPU backend, which finds mistakes in the tests
where there is no GPU; what is about CUDA itself skips there.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek import _C, BlockMask, UnsupportedError, attention_forward
from blackwell_sparsek.attention import plan
from blackwell_sparsek.core import Config, set_default_config

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from oracle_tools import spacing

ROOT = Path(__file__).parents[2]
DEVICE = os.environ.get("BSK_GPU_TESTS_ON", "cuda")
ON_GPU = DEVICE == "cuda"
DTYPES = [torch.float16, torch.bfloat16]
FULL, SMALL = "sm90_attention_forward", "sm90_attention_forward_small"
# The kernels that can be asked for by name on this device, and are no oracle.
KERNELS = [name for name, _, _ in _C.kernels() if name.startswith("sm" if ON_GPU else "cpu_a")]

MARGINS: list[float] = []  # error / allowed error of the running test, for the summary


def _why_not() -> str | None:
    if not ON_GPU:
        return None
    if not torch.cuda.is_available():
        return "needs a GPU; torch sees none here"
    capability = torch.cuda.get_device_capability()
    if capability[0] not in (9, 10):
        return f"needs a GPU of compute capability 9.0 or 10.0; this one has {capability}"
    return None


def gpu_only() -> Any:
    """The mark of a file of GPU tests; skips the whole file where they cannot run."""
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason, allow_module_level=True)
    return pytest.mark.gpu


needs_cuda = pytest.mark.skipif(not ON_GPU, reason="is about CUDA itself")
MANY_SEEDS = range(4)


def generator(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def randn(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), device=DEVICE).to(dtype)


def haloed(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> Tensor:
    """Random numbers in the midst of NaN; strides are those of the padded tensor, 16-byte aligned."""
    halo = (1, 1, 8, 8)
    padded = torch.full(
        [size + 2 * h for size, h in zip(shape, halo, strict=True)],
        torch.nan,
        dtype=dtype,
        device=DEVICE,
    )
    view = padded[tuple(slice(h, h + size) for size, h in zip(shape, halo, strict=True))]
    view.copy_(torch.randn(shape, generator=generator(seed), device=DEVICE))
    return view


def qkv(
    batch: int,
    q_heads: int,
    kv_heads: int,
    q_len: int,
    kv_len: int,
    head_dim: int = 64,
    v_head_dim: int = 0,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V in halos of NaN."""
    return (
        haloed(batch, q_heads, q_len, head_dim, dtype=dtype, seed=seed),
        haloed(batch, kv_heads, kv_len, head_dim, dtype=dtype, seed=seed + 1),
        haloed(batch, kv_heads, kv_len, v_head_dim or head_dim, dtype=dtype, seed=seed + 2),
    )


# ---- the oracle: the definition in fp64, by matrix products --------------------------------------


def visible(
    Q: Tensor,
    K: Tensor,
    is_causal: bool | str = False,
    attn_mask: Tensor | None = None,
    window: tuple[int, int] | None = None,
    block_mask: BlockMask | None = None,
) -> Tensor | None:
    """bool, broadcastable to [batch, q_heads, q_len, kv_len]: every boolean rule; None = all."""
    q_len, kv_len = Q.shape[2], K.shape[2]
    upper_left = is_causal in (True, "upper_left")
    key = torch.arange(kv_len, device=Q.device)
    diagonal = torch.arange(q_len, device=Q.device)[:, None]
    diagonal = diagonal + (0 if upper_left else kv_len - q_len)
    rules = []
    if is_causal:
        rules.append(key <= diagonal)
    left, right = window or (-1, -1)
    if left >= 0:
        rules.append(key >= diagonal - left)
    if right >= 0:
        rules.append(key <= diagonal + right)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        rules.append(attn_mask)
    if block_mask is not None:
        dense = block_mask.to_dense_mask(q_len, kv_len)
        rules.append(dense.repeat_interleave(Q.shape[1] // dense.shape[1], 1))
    result: Tensor | None = None
    for rule in rules:
        result = rule if result is None else result & rule
    return result


def _scores(
    Q: Tensor,
    K: Tensor,
    scale: float | None,
    softcap: float | None,
    attn_mask: Tensor | None,
    allowed: Tensor | None,
) -> Tensor:
    keys = K.repeat_interleave(Q.shape[1] // max(K.shape[1], 1), 1)
    scores = Q @ keys.transpose(-1, -2) * (Q.shape[3] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        scores = scores + attn_mask.to(scores.dtype)
    return scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)


def exact(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None = None,
    *,
    softcap: float | None = None,
    attn_mask: Tensor | None = None,
    **rules: Any,
) -> tuple[Tensor, Tensor]:
    """`(output, lse)` in fp64, for finite V. Rows that see nothing are zeros with LSE -inf."""
    allowed = visible(Q, K, attn_mask=attn_mask, **rules)
    scores = _scores(Q.double(), K.double(), scale, softcap, attn_mask, allowed)
    values = V.double().repeat_interleave(Q.shape[1] // max(V.shape[1], 1), 1)
    lse = scores.logsumexp(-1)
    empty = lse == -torch.inf
    weights = (scores - lse.masked_fill(empty, 0.0)[..., None]).exp()
    return weights @ values, lse


def by_torch(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None = None,
    *,
    softcap: float | None = None,
    attn_mask: Tensor | None = None,
    **rules: Any,
) -> Tensor:
    """The problem by torch in the tensors' own precision; rows that see nothing may be NaN.

    By SDPA, or where that cannot (softcap) or is not sure to (an additive mask: which of its
    kernels take one of another dtype or at odd addresses depends on torch's version) as attention
    kernels compute: scores in fp32, weights in the tensors' dtype.
    """
    additive = attn_mask is not None and attn_mask.dtype != torch.bool
    allowed = visible(Q, K, attn_mask=attn_mask, **rules)
    if softcap or additive:
        scores = _scores(Q.float(), K.float(), scale, softcap, attn_mask, allowed)
        weights = scores.softmax(-1).to(Q.dtype)
        return weights @ V.repeat_interleave(Q.shape[1] // V.shape[1], 1)
    mask = None if allowed is None else allowed.expand(*Q.shape[:3], K.shape[2])
    return scaled_dot_product_attention(
        Q, K, V, mask, scale=scale, enable_gqa=Q.shape[1] != K.shape[1]
    )


# ---- the check -----------------------------------------------------------------------------------


def assert_close(result: Tensor, reference: Tensor, torch_result: Tensor, what: str = "") -> None:
    """Special values in the same places; error at most twice torch's own, plus one spacing."""
    assert result.shape == reference.shape, what
    assert torch.equal(result.isnan(), reference.isnan()), f"{what}: NaN in other places"
    inf = reference.isinf()
    assert torch.equal(result.isinf(), inf), f"{what}: inf in other places"
    finite = reference.isfinite()
    if not finite.any():
        return
    torch_error = (torch_result.double() - reference)[finite & torch_result.isfinite()].abs()
    largest = float(torch_error.max()) if torch_error.numel() else 0.0
    allowed = 2 * largest + spacing(reference, result.dtype)
    error = float((result.double() - reference)[finite].abs().max())
    MARGINS.append(error / allowed)
    assert error <= allowed, f"{what}: error {error:.3e}, allowed {allowed:.3e}"


def assert_lse_close(lse: Tensor, reference: Tensor, what: str = "") -> None:
    assert torch.equal(lse.isnan(), reference.isnan()), f"{what}: LSE NaN in other places"
    assert torch.equal(lse == -torch.inf, reference == -torch.inf), f"{what}: LSE -inf elsewhere"
    finite = reference.isfinite()
    if finite.any():
        error = float((lse.double() - reference)[finite].abs().max())
        allowed = 2e-5 * max(1.0, float(reference[finite].abs().max()))
        assert error <= allowed, f"{what}: LSE error {error:.3e}, allowed {allowed:.3e}"


@contextlib.contextmanager
def forced(kernel: str) -> Iterator[None]:
    """This kernel and no other."""
    set_default_config(Config(kernel=kernel))
    try:
        yield
    finally:
        set_default_config(Config())


def takers(Q: Tensor, K: Tensor, V: Tensor, **options: Any) -> list[str]:
    """The kernels that take a problem when asked for by name."""
    names = []
    for name in KERNELS:
        with forced(name), contextlib.suppress(UnsupportedError):
            plan(Q, K, V, **options)
            names.append(name)
    return names


def check(Q: Tensor, K: Tensor, V: Tensor, scale: float | None = None, **options: Any) -> None:
    """The problem by the default choice and by every kernel that takes it, against the oracle.

    `out` is poisoned, so that an element which is not written shows.
    """
    reference, reference_lse = exact(Q, K, V, scale, **options)
    torch_result = by_torch(Q, K, V, scale, **options)
    names = takers(Q, K, V, scale=scale, **options)
    assert names, "no kernel takes this problem"
    for name in ("", *names):
        with forced(name) if name else contextlib.nullcontext():
            line = plan(Q, K, V, scale, **options)
            out = torch.full((*Q.shape[:3], V.shape[3]), torch.nan, dtype=Q.dtype, device=Q.device)
            result, lse = attention_forward(Q, K, V, scale, return_lse=True, out=out, **options)
            again = attention_forward(Q, K, V, scale, **options)
        assert result is out
        assert torch.equal(result, again), f"{line}: without return_lse and out other bits"
        assert_close(result, reference, torch_result, line)
        assert_lse_close(lse, reference_lse, line)
