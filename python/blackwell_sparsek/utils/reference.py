"""`reference_attention`: the fp64 oracle behind the tests, `bsk validate` and the benches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek import _C
from blackwell_sparsek.attention import _native_arguments
from blackwell_sparsek.block_mask import BlockMask

__all__ = ["reference_attention"]


def reference_attention(
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
    out: Tensor | None = None,
) -> Any:
    """`attention_forward` in fp64 by plain loops on the CPU: slow, and right.

    Takes the same arguments, of any floating dtype and on any device, and copies them to fp64 on
    the CPU, so that nothing is rounded but the inputs themselves.

    Returns:
        float64 [batch, q_heads, q_len, v_head_dim] on the CPU; with `return_lse` a pair of it and
        float32 [batch, q_heads, q_len]. `out` must be such a tensor, if given.

    Raises:
        ValueError, TypeError: as `attention_forward`.
    """
    for name, tensor in (("Q", Q), ("K", K), ("V", V)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(
                f"{name}: must be a floating-point torch.Tensor; got {got}. Call .float() on it."
            )
    if isinstance(attn_mask, Tensor):
        attn_mask = attn_mask.detach().cpu()
        attn_mask = attn_mask if attn_mask.dtype == torch.bool else attn_mask.double()
    if isinstance(block_mask, BlockMask):
        block_mask = block_mask.to("cpu")
    Q, K, V = (tensor.detach().cpu().double() for tensor in (Q, K, V))
    arguments = _native_arguments(
        Q, K, V, scale, is_causal, attn_mask, window, softcap, block_mask, return_lse, out
    )
    forced: tuple[Any, ...] = (*arguments, "cpu_reference")
    return _C.attention_forward(*forced)
