"""Wrong calls with tensors on a GPU: each error names argument, rule, value and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gpu_tools
from blackwell_sparsek import BlockMask, UnsupportedError, attention_forward
from blackwell_sparsek.core import Config, get_build_info, set_default_config
from blackwell_sparsek.fallback import FallbackWarning
from gpu_tools import needs_cuda, randn

pytestmark = [gpu_tools.gpu_only(), needs_cuda]

N = randn
ODD = (2, 4, 70, 36)

WRONG: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], tuple[str, ...]]] = {
    "all fp32": (
        lambda: {n: N(2, 4, 70, 64, dtype=torch.float32) for n in "QKV"},
        TypeError,
        ("Q: ", "float16 or bfloat16 on a GPU", "float32", "half()"),
    ),
    "K on the CPU": (
        lambda: {"K": N(2, 4, 70, 64).cpu()},
        ValueError,
        ("K: ", "Q's device, cuda:0", "cpu", "K.to(Q.device)"),
    ),
    "Q on the CPU": (
        lambda: {"Q": N(2, 4, 70, 64).cpu()},
        ValueError,
        ("K: ", "Q's device, cpu", "cuda:0", "K.to(Q.device)"),
    ),
    "attn_mask on the CPU": (
        lambda: {"attn_mask": torch.ones(70, 70, dtype=torch.bool)},
        ValueError,
        ("attn_mask: ", "Q's device, cuda:0", "cpu", "to(Q.device)"),
    ),
    "block_mask on the CPU": (
        lambda: {"block_mask": BlockMask.random(70, 70, 1.0)},
        ValueError,
        ("block_mask: ", "Q's device, cuda:0", "cpu", "block_mask.to(Q.device)"),
    ),
    "out on the CPU": (
        lambda: {"out": torch.empty(2, 4, 70, 64, dtype=torch.float16)},
        ValueError,
        ("out: ", "Q's device, cuda:0", "cpu", "Leave `out`"),
    ),
    "K of another dtype": (
        lambda: {"K": N(2, 4, 70, 64, dtype=torch.bfloat16)},
        TypeError,
        ("K: ", "float16", "bfloat16", "to(Q.dtype)"),
    ),
    "stride 2 in head_dim": (
        lambda: {"Q": N(2, 4, 70, 128)[..., ::2]},
        ValueError,
        ("Q: ", "stride 1", "contiguous()"),
    ),
    "out is an input": (
        lambda: dict.fromkeys(("Q", "out"), N(2, 4, 70, 64)),
        ValueError,
        ("out: ", "apart from Q", "empty_like"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call(name: str) -> None:
    make, exception, parts = WRONG[name]
    call = {n: N(2, 4, 70, 64) for n in "QKV"} | make()
    with pytest.raises(exception) as caught:
        attention_forward(**call)
    message = str(caught.value)
    assert message.startswith(parts[0]), message
    for part in parts:
        assert part in message, message


def _misaligned(kind: str) -> torch.Tensor:
    if kind == "strides":  # rows of 68 numbers: 136 bytes, no multiple of 16
        return randn(2, 4, 70, 68)[..., :64]
    return randn(2, 4, 70, 72)[..., 1:65]  # rows of 144 bytes that start at byte 2


@pytest.mark.parametrize("kind", ["strides", "address"])
@pytest.mark.parametrize("name", ["Q", "K", "V", "out"])
def test_misaligned_tensor_is_right_or_refused(name: str, kind: str) -> None:
    """The copy engine and wide stores need multiples of 16 bytes. What is not so is computed right
    by another kernel, or refused in words that name the tensor, the rule and what to do."""
    call = {n: randn(2, 4, 70, 64, seed=i) for i, n in enumerate("QKV")}
    expected = attention_forward(**call)
    call[name] = _misaligned(kind).copy_(call.get(name, expected))
    try:
        result = attention_forward(**call)
        torch.cuda.synchronize()
    except (UnsupportedError, ValueError) as error:
        message = str(error)
        assert name in message or name.lower() in message, message
        assert "multiple" in message or "align" in message, message
        assert any(w in message for w in ("fallback='sdpa'", "contiguous()", "clone()")), message
    else:
        torch.testing.assert_close(result, expected, rtol=1e-2, atol=1e-2)


def test_an_unsupported_call_falls_back_visibly_where_asked() -> None:
    Q = randn(1, 2, 40, 64)
    with gpu_tools.forced(gpu_tools.SMALL), pytest.raises(UnsupportedError, match="no softcap"):
        attention_forward(Q, Q, Q, softcap=3.0)
    set_default_config(Config(kernel=gpu_tools.SMALL, fallback="sdpa"))
    with pytest.warns(FallbackWarning):
        result = attention_forward(Q, Q, Q, softcap=3.0)
    reference, _ = gpu_tools.exact(Q, Q, Q, softcap=3.0)
    torch.testing.assert_close(result.double(), reference, rtol=1e-2, atol=1e-2)


def test_the_calls_after_an_error_are_right() -> None:
    Q = randn(1, 2, 40, 64)
    with pytest.raises(ValueError):
        attention_forward(Q, Q.cpu(), Q)
    gpu_tools.check(Q, Q, Q)


def test_requires_grad_is_refused() -> None:
    Q = randn(1, 2, 40, 64).requires_grad_()
    with pytest.raises(UnsupportedError, match="^Q, K, V: .*requires_grad=True.*no_grad"):
        attention_forward(Q, Q, Q)


def test_build_info_names_the_device() -> None:
    info = get_build_info()
    assert info["capability"] == torch.cuda.get_device_capability()
    assert info["device"] == torch.cuda.get_device_name()
    assert info["compute_arch"] == ("90a" if info["capability"][0] == 9 else "100a")
    assert info["cuda_driver"] is not None
