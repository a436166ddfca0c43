"""Wrong calls: each gets the right exception, which names the argument, the rule, the value and the remedy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from blackwell_sparsek import BlockMask, UnsupportedError, attention_forward
from blackwell_sparsek.core import Config, set_default_config


def tensors(**overrides: Any) -> dict[str, Any]:
    """A correct call's arguments, with some replaced."""
    generator = torch.Generator().manual_seed(0)
    call: dict[str, Any] = {
        "Q": torch.randn(2, 4, 70, 32, generator=generator),
        "K": torch.randn(2, 2, 90, 32, generator=generator),
        "V": torch.randn(2, 2, 90, 48, generator=generator),
    }
    call.update(overrides)
    return call


def blocks(*shape: int, block_size: tuple[int, int] = (64, 64), **sizes: int) -> BlockMask:
    return BlockMask.from_dense(torch.ones(shape, dtype=torch.bool), block_size=block_size, **sizes)


@dataclasses.dataclass
class Wrong:
    """One wrong call: the arguments that replace correct ones, and what its error has to say."""

    name: str
    arguments: Callable[[], dict[str, Any]]
    exception: type[Exception]
    argument: str  # the message starts with it
    got: str  # the value got, somewhere in the message
    remedy: str  # a word of the remedy


N, T, V = torch.randn, TypeError, ValueError

WRONG = [
    # kinds of objects
    Wrong("Q is a list", lambda: {"Q": [[1.0]]}, T, "Q", "list", "as_tensor"),
    Wrong("K is None", lambda: {"K": None}, T, "K", "NoneType", "as_tensor"),
    Wrong("V is a str", lambda: {"V": "V"}, T, "V", "str", "as_tensor"),
    Wrong("mask is a list", lambda: {"attn_mask": [True]}, T, "attn_mask", "list", "as_tensor"),
    Wrong("out is a number", lambda: {"out": 1.0}, T, "out", "float", "as_tensor"),
    Wrong("block_mask is a tensor", lambda: {"block_mask": N(2)}, T, "block_mask", "Tensor", "from_dense"),
    # ranks and shapes
    Wrong("Q has 3 dimensions", lambda: {"Q": N(4, 70, 32)}, V, "Q", "[4, 70, 32]", "unsqueeze"),
    Wrong("K has 5 dimensions", lambda: {"K": N(1, 2, 2, 90, 32)}, V, "K", "5", "view"),
    Wrong("V is a scalar", lambda: {"V": N(())}, V, "V", "0", "unsqueeze"),
    Wrong("K has another batch", lambda: {"K": N(3, 2, 90, 32)}, V, "K", "3", "Expand"),
    Wrong("V has another batch", lambda: {"V": N(1, 2, 90, 48)}, V, "V", "[1, 2, 90, 48]", "slice"),
    Wrong("K has another head_dim", lambda: {"K": N(2, 2, 90, 64)}, V, "K", "64", "head_dim"),
    Wrong("V has another length", lambda: {"V": N(2, 2, 91, 48)}, V, "V", "[2, 2, 91, 48]", "slice"),
    Wrong("V has other heads", lambda: {"V": N(2, 4, 90, 48)}, V, "V", "[2, 4, 90, 48]", "slice"),
    Wrong("heads do not divide", lambda: {"K": N(2, 3, 90, 32), "V": N(2, 3, 90, 48)}, V, "K", "3", "heads"),
    Wrong("more kv heads", lambda: {"K": N(2, 8, 90, 32), "V": N(2, 8, 90, 48)}, V, "K", "8", "heads"),
    Wrong("no kv heads", lambda: {"K": N(2, 0, 90, 32), "V": N(2, 0, 90, 48)}, V, "K", "0", "heads"),
    Wrong("head_dim 8", lambda: {"Q": N(2, 4, 70, 8), "K": N(2, 2, 90, 8)}, V, "Q", "8", "Pad"),
    Wrong("head_dim 20", lambda: {"Q": N(2, 4, 70, 20), "K": N(2, 2, 90, 20)}, V, "Q", "20", "Pad"),
    Wrong("head_dim 264", lambda: {"Q": N(2, 4, 70, 264), "K": N(2, 2, 90, 264)}, V, "Q", "264", "SDPA"),
    Wrong("head_dim 0", lambda: {"Q": N(2, 4, 70, 0), "K": N(2, 2, 90, 0)}, V, "Q", "0", "Pad"),
    Wrong("v_head_dim 12", lambda: {"V": N(2, 2, 90, 12)}, V, "V", "12", "Pad"),
    # dtypes
    Wrong("Q is int64", lambda: {"Q": torch.ones(2, 4, 70, 32, dtype=torch.int64)}, T, "Q", "int64", "float()"),
    Wrong("Q is bool", lambda: {"Q": torch.ones(2, 4, 70, 32, dtype=torch.bool)}, T, "K", "float32", "to("),
    Wrong("Q is complex", lambda: {"Q": N(2, 4, 70, 32, dtype=torch.complex64)}, T, "Q", "complex64", "float()"),
    Wrong("all float8", lambda: {n: t.to(torch.float8_e5m2) for n, t in tensors().items()}, T, "Q", "12 of 8 bits", "float()"),
    Wrong("all float64", lambda: {n: t.double() for n, t in tensors().items()}, T, "Q", "float64", "float()"),
    Wrong("all bool", lambda: {n: t > 0 for n, t in tensors().items()}, T, "Q", "bool", "float()"),
    Wrong("K is float16", lambda: {"K": N(2, 2, 90, 32).half()}, T, "K", "float16", "to(Q.dtype)"),
    Wrong("V is bfloat16", lambda: {"V": N(2, 2, 90, 48).bfloat16()}, T, "V", "bfloat16", "to(Q.dtype)"),
    Wrong("Q is float8", lambda: {"Q": N(2, 4, 70, 32).to(torch.float8_e4m3fn)}, T, "Q", "", "float()"),
    # devices and layouts
    Wrong("Q on meta", lambda: {"Q": N(2, 4, 70, 32, device="meta")}, V, "K", "cpu", "to(Q.device)"),
    Wrong("mask on meta", lambda: {"attn_mask": N(70, 90, device="meta")}, V, "attn_mask", "meta", "to(Q.device)"),
    Wrong("K is sparse", lambda: {"K": N(2, 2, 90, 32).to_sparse()}, V, "K", "sparse", "to_dense"),
    Wrong("stride 2", lambda: {"Q": N(2, 4, 70, 64)[..., ::2]}, V, "Q", "2]", "contiguous()"),
    Wrong("transposed K", lambda: {"K": N(2, 2, 32, 90).mT}, V, "K", "strides", "contiguous()"),
    Wrong("expanded V", lambda: {"V": N(2, 2, 90, 1).expand(2, 2, 90, 48)}, V, "V", "strides", "contiguous()"),
    # numbers
    Wrong("scale NaN", lambda: {"scale": float("nan")}, V, "scale", "nan", "None"),
    Wrong("scale inf", lambda: {"scale": float("inf")}, V, "scale", "inf", "None"),
    Wrong("scale too large", lambda: {"scale": 1e300}, V, "scale", "1000", "Q"),
    Wrong("scale a huge int", lambda: {"scale": 10**400}, V, "scale", "", "None"),
    Wrong("scale a str", lambda: {"scale": "0.5"}, T, "scale", "str", "None"),
    Wrong("scale a tensor", lambda: {"scale": torch.tensor(0.5)}, T, "scale", "Tensor", "None"),
    Wrong("scale a bool", lambda: {"scale": True}, T, "scale", "bool", "None"),
    Wrong("scale complex", lambda: {"scale": 1j}, T, "scale", "complex", "None"),
    Wrong("softcap negative", lambda: {"softcap": -1.0}, V, "softcap", "-1", "None"),
    Wrong("softcap NaN", lambda: {"softcap": float("nan")}, V, "softcap", "nan", "None"),
    Wrong("softcap inf", lambda: {"softcap": float("inf")}, V, "softcap", "inf", "None"),
    Wrong("softcap a str", lambda: {"softcap": "30"}, T, "softcap", "str", "None"),
    Wrong("causal a wrong word", lambda: {"is_causal": "lower"}, V, "is_causal", "'lower'", "lower_right"),
    Wrong("causal None", lambda: {"is_causal": None}, T, "is_causal", "None", "lower_right"),
    Wrong("causal 1", lambda: {"is_causal": 1}, T, "is_causal", "1", "lower_right"),
    Wrong("window a number", lambda: {"window": 128}, T, "window", "128", "(left, right)"),
    Wrong("window of one", lambda: {"window": (128,)}, V, "window", "(128,)", "(left, right)"),
    Wrong("window of three", lambda: {"window": (1, 2, 3)}, V, "window", "(1, 2, 3)", "(left, right)"),
    Wrong("window of floats", lambda: {"window": (1.0, 0)}, T, "window", "1.0", "(left, right)"),
    Wrong("window of bools", lambda: {"window": (True, False)}, T, "window", "True", "(left, right)"),
    Wrong("window far below", lambda: {"window": (-(10**30), 0)}, V, "window", "-1099511627776", "None"),
    Wrong("window -2", lambda: {"window": (-2, 0)}, V, "window", "-2", "None"),
    Wrong("return_lse a str", lambda: {"return_lse": "yes"}, T, "return_lse", "'yes'", "return_lse=True"),
    # attn_mask
    Wrong("mask of another length", lambda: {"attn_mask": N(70, 91)}, V, "attn_mask", "[1, 1, 70, 91]", "1"),
    Wrong("padding mask of rank 2", lambda: {"attn_mask": N(2, 90) > 0}, V, "attn_mask", "[1, 1, 2, 90]", "1, 1"),
    Wrong("mask of kv heads", lambda: {"attn_mask": N(2, 2, 70, 90)}, V, "attn_mask", "[2, 2, 70, 90]", "1"),
    Wrong("mask of rank 5", lambda: {"attn_mask": N(1, 1, 1, 70, 90)}, V, "attn_mask", "5", "broadcastable"),
    Wrong("int mask", lambda: {"attn_mask": torch.ones(70, 90).int()}, T, "attn_mask", "int32", "bool()"),
    Wrong("float64 mask", lambda: {"attn_mask": N(70, 90).double()}, T, "attn_mask", "float64", "float()"),
    # block_mask
    Wrong("blocks for another q_len", lambda: {"block_mask": blocks(1, 1, 3, 2)}, V, "block_mask", "3", "q_len"),
    Wrong("blocks of another batch", lambda: {"block_mask": blocks(3, 1, 2, 2)}, V, "block_mask", "3", "batch"),
    Wrong("blocks of 3 heads", lambda: {"block_mask": blocks(1, 3, 2, 2)}, V, "block_mask", "3", "heads"),
    # out
    Wrong("out of another shape", lambda: {"out": N(2, 4, 70, 32)}, V, "out", "[2, 4, 70, 32]", "Leave `out`"),
    Wrong("out of another dtype", lambda: {"out": N(2, 4, 70, 48).half()}, T, "out", "float16", "Leave `out`"),
    Wrong("out on meta", lambda: {"out": N(2, 4, 70, 48, device="meta")}, V, "out", "meta", "Leave `out`"),
    Wrong("out with stride 2", lambda: {"out": N(2, 4, 70, 96)[..., ::2]}, V, "out", "2]", "Leave `out`"),
    Wrong("out overlaps itself", lambda: {"out": N(1, 4, 70, 48).expand(2, 4, 70, 48)}, V, "out", "[0,", "owns"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_call(wrong: Wrong) -> None:
    with pytest.raises(wrong.exception) as caught:
        attention_forward(**tensors(**wrong.arguments()))
    message = str(caught.value)
    assert type(caught.value) is wrong.exception
    assert message.startswith((f"{wrong.argument}:", f"{wrong.argument}.")), message
    assert wrong.got in message, message
    assert wrong.remedy in message, message
    assert "\n" not in message, message


def test_there_are_enough_wrong_calls() -> None:
    assert len(WRONG) >= 40
    assert len({wrong.name for wrong in WRONG}) == len(WRONG)


def test_the_correct_call_is_taken() -> None:
    assert attention_forward(**tensors()).isfinite().all()


@pytest.mark.parametrize("name", ["Q", "K", "V", "attn_mask"])
def test_out_must_lie_apart_from_the_inputs(name: str) -> None:
    call = {n: torch.randn(2, 4, 64, 64) for n in ("Q", "K", "V", "attn_mask")}
    with pytest.raises(
        ValueError, match=rf"^out: must lie apart from {name} in memory.*empty_like"
    ):
        attention_forward(**call, out=call[name])
    packed = torch.randn(2, 4, 64, 2, 64)
    call["Q"] = packed[..., 0, :]
    with pytest.raises(ValueError, match="^out: must lie apart from Q"):
        attention_forward(call["Q"], call["K"], call["V"], out=packed[..., 1, :])


@pytest.mark.parametrize("name", ["Q", "K", "V", "attn_mask"])
def test_gradients_are_refused(name: str) -> None:
    call = tensors(attn_mask=torch.randn(70, 90))
    call[name].requires_grad_()
    with pytest.raises(UnsupportedError, match=rf"^{name}: .*requires_grad=True.*no_grad\(\)"):
        attention_forward(**call)
    with torch.no_grad():
        assert not attention_forward(**call).requires_grad


def test_positional_arguments_end_with_scale() -> None:
    call = tensors()
    with pytest.raises(TypeError):
        attention_forward(call["Q"], call["K"], call["V"], 0.1, True)  # type: ignore[misc]
    assert torch.equal(
        attention_forward(call["Q"], call["K"], call["V"], 0.1),
        attention_forward(call["Q"], call["K"], call["V"], scale=0.1),
    )


@pytest.mark.parametrize(
    ("options", "exception", "parts"),
    [
        ({"cuda_arch": "89"}, ValueError, ["cuda_arch", "'89'", "'90a', '100a'"]),
        ({"cuda_arch": 90}, TypeError, ["cuda_arch", "90", "a str"]),
        ({"debug_mode": "1"}, TypeError, ["debug_mode", "'1'", "a bool"]),
        ({"debug_mode": 1}, TypeError, ["debug_mode", "1", "a bool"]),
        ({"enable_profiling": 0}, TypeError, ["enable_profiling", "0", "a bool"]),
        ({"build_dir": ""}, ValueError, ["build_dir", "''", "path"]),
        ({"build_dir": 3}, TypeError, ["build_dir", "3", "a path"]),
        ({"build_dir": "a\0b"}, ValueError, ["build_dir", "path"]),
        ({"fallback": "torch"}, ValueError, ["fallback", "'torch'", "'error', 'sdpa'"]),
        ({"fallback": True}, TypeError, ["fallback", "True", "a str"]),
        ({"kernel": "fast"}, ValueError, ["kernel", "'fast'", "'cpu_attention_forward'"]),
        ({"speed": 9}, TypeError, ["speed"]),
    ],
)
def test_bad_options(options: dict[str, Any], exception: type[Exception], parts: list[str]) -> None:
    with pytest.raises(exception) as caught:
        Config(**options)
    for part in parts:
        assert part in str(caught.value)


def test_set_default_config_takes_a_config() -> None:
    with pytest.raises(TypeError, match="^config: must be a Config; got dict"):
        set_default_config({"fallback": "sdpa"})  # type: ignore[arg-type]


@pytest.mark.parametrize(("q_len", "kv_len"), [(69, 90), (70, 89), (70, 130)])
def test_a_block_mask_for_other_lengths(q_len: int, kv_len: int) -> None:
    """The number of query blocks may agree by chance; the lengths that a mask was made for must too."""
    keys = -(-kv_len // 64)
    mask = blocks(1, 1, 2, keys, q_len=q_len, kv_len=kv_len)
    with pytest.raises(ValueError, match=r"^block_mask: was made for (q|kv)_len="):
        attention_forward(**tensors(block_mask=mask))
    assert (
        attention_forward(**tensors(block_mask=blocks(1, 1, 2, 2, q_len=70, kv_len=90)))
        .isfinite()
        .all()
    )


def test_arrays_of_another_library() -> None:
    call = tensors()
    arrays = {name: tensor.numpy() for name, tensor in call.items()}
    out = torch.empty(2, 4, 70, 48)
    assert attention_forward(**arrays, out=out) is out
    assert torch.equal(out, attention_forward(**call))
    with pytest.raises(TypeError, match=r"^out: must be given.*; got None\."):
        attention_forward(**arrays)
    with pytest.raises(TypeError, match=r"^return_lse: must be False.*; got True\..*as_tensor"):
        attention_forward(**arrays, out=out, return_lse=True)
