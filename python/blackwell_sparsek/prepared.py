"""`prepare`: a call of `attention_forward` with its options decided, for loops that do nothing but inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek import _C
from blackwell_sparsek.attention import attention_forward, plan
from blackwell_sparsek.block_mask import BlockMask

__all__ = ["PreparedAttention", "prepare"]

_run = _C.attention_forward_prepared
_is_compiling = torch.compiler.is_dynamo_compiling


class PreparedAttention:
    """`prepared(Q, K, V, out=None)`: `attention_forward` with the options that `prepare` was given.

    Tensors of other sizes, strides or dtypes are taken too: they are planned when they first come.
    """

    __slots__ = ("_options", "_text")

    def __init__(self, text: str, options: tuple[Any, ...]) -> None:
        self._text = text
        self._options = options  # from scale to return_lse, in attention_forward's order

    def __call__(self, Q: Tensor, K: Tensor, V: Tensor, *, out: Tensor | None = None) -> Any:
        if not _is_compiling():
            result = _run(Q, K, V, self._options, out)
            if result is not NotImplemented:
                return result
        scale, is_causal, attn_mask, window, softcap, block_mask, return_lse = self._options
        return attention_forward(
            Q,
            K,
            V,
            scale,
            is_causal=is_causal,
            attn_mask=attn_mask,
            window=window,
            softcap=softcap,
            block_mask=block_mask,
            return_lse=return_lse,
            out=out,
        )

    def __str__(self) -> str:
        """What runs for tensors as those that `prepare` was given."""
        return self._text


def prepare(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None = None,
    *,
    is_causal: bool | str = False,
    attn_mask: Tensor | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    block_mask: BlockMask | None = None,
    return_lse: bool = False,
) -> PreparedAttention:
    """`attention_forward` made ready for calls on tensors as these, at the least cost on the host.

    Its calls check arguments as `attention_forward` does, and refuse gradients as it does. What they
    do not look for is what acts on torch's operations from outside: autocast, modes, `vmap`, tracing,
    forward-mode derivatives, lazily negated views. `out` does not count as changed in place for
    autograd.

    Raises:
        As `attention_forward`.
    """
    options = (scale, is_causal, attn_mask, window, softcap, block_mask, return_lse)
    text = plan(
        Q,
        K,
        V,
        scale,
        is_causal=is_causal,
        attn_mask=attn_mask,
        window=window,
        softcap=softcap,
        block_mask=block_mask,
        return_lse=return_lse,
    )
    return PreparedAttention(text, options)


# The callback is torch.compile's, which has to see the Python code while it is there.
_C.answer_calls(
    attention_forward,
    PreparedAttention.__call__,
    torch._C._dynamo.eval_frame.get_eval_frame_callback,
)
