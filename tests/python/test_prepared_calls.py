"""What a call prepared serves only calls with an equal problem; `prepare` gives what `attention_forward` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from blackwell_sparsek import _C, BlockMask, attention_forward, prepare
from oracle_tools import oracle

Q, K, V = (torch.randn(2, 4, 40, 32) for _ in range(3))
CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "pointers": lambda: {"Q": Q.clone(), "K": -K, "V": V.clone()},
    "strides": lambda: {"K": K.transpose(1, 2).contiguous().transpose(1, 2)},
    "dtype": lambda: {"Q": Q.bfloat16(), "K": K.bfloat16(), "V": V.bfloat16()},
    "q_len": lambda: {"Q": Q[:, :, 7:]},
    "kv_len": lambda: {"K": K[:, :, 3:], "V": V[:, :, 3:]},
    "v_head_dim": lambda: {"V": V[..., :16]},
    "scale": lambda: {"scale": 0.7},
    "causal": lambda: {"is_causal": True},
    "window": lambda: {"window": (3, 3)},
    "softcap": lambda: {"softcap": 1.5},
    "mask": lambda: {"attn_mask": torch.rand(40, 40) > 0.5},
    "mask strides": lambda: {"attn_mask": (torch.rand(40, 40) > 0.5).t()},
    "unaligned": lambda: {"Q": torch.randn(Q.numel() + 1)[1:].view(Q.shape)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    first: dict[str, Any] = {"Q": Q, "K": K, "V": V}
    changed = first | CHANGES[change]()
    # The oracle changes the settings, after which everything is prepared anew: it goes first.
    cases = [(arguments, oracle(**arguments)[0]) for arguments in (first, changed)]
    for arguments, expected in cases * 2:
        result = attention_forward(**arguments)
        tolerance = 1e-5 if result.dtype == torch.float32 else 3e-2
        torch.testing.assert_close(result.double(), expected, atol=tolerance, rtol=0)


def test_prepared_calls_equal_others() -> None:
    mask = BlockMask.from_dense(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    for options in (
        {},
        {"is_causal": "upper_left"},
        {"window": [4, 0], "softcap": 2.0},
        {"block_mask": mask, "return_lse": True},
    ):
        call = prepare(Q, K, V, **options)
        assert "cpu_attention_forward" in str(call)
        for shift in (0.0, 1.0):
            tensors = (Q + shift, K - shift, V * 2)
            expected = attention_forward(*tensors, **options)
            got = call(*tensors)
            assert type(got) is type(expected)
            for one, other in zip(_as_tuple(got), _as_tuple(expected), strict=True):
                assert torch.equal(one, other)
            out = torch.empty_like(Q)
            call(*tensors, out=out)
            assert torch.equal(out, _as_tuple(expected)[0])
    other_sizes = Q[:, :, :11].to(torch.float16), K.half(), V.half()
    assert torch.equal(prepare(Q, K, V)(*other_sizes), attention_forward(*other_sizes))


def test_prepared_calls_keep_rules_and_gradients_apart() -> None:
    with pytest.raises(ValueError, match=r"^K: "):
        prepare(Q, K[:, :3], V)
    call = prepare(Q, K, V)
    with pytest.raises(ValueError, match=r"^out: must lie apart"):
        call(Q, K, V, out=Q)
    with pytest.raises(_C.UnsupportedError, match="gradient"):
        call(Q.clone().requires_grad_(), K, V)


def test_unaligned_addresses_are_reasons_of_gpu_kernels() -> None:
    device = ("cuda", "a GPU", 90, 132, 232448)
    half = [t.half() for t in (Q, K, V, Q)]
    for position, name in ((0, "q"), (1, "k"), (2, "v"), (3, "out")):
        tensors = list(half)
        tensors[position] = torch.empty(Q.numel() + 4, dtype=torch.float16)[4:].view(Q.shape)
        q, k, v, out = tensors
        arguments = (q, k, v, None, 0, -1, -1, 0.0, None, None, False, out)
        reasons = _C.kernel_reasons(arguments, device)
        for kernel in ("sm90_attention_forward", "sm90_attention_forward_small"):
            assert any(
                f"needs {name} to start at a multiple of 16 bytes, not of 8" in reason
                for reason in reasons[kernel]
            )


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
