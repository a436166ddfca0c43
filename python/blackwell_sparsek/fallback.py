"""The same attention by torch's own operations, taken only under `Config(fallback='sdpa')`."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek.block_mask import BlockMask

__all__ = ["FallbackWarning", "attention_forward"]


class FallbackWarning(UserWarning):
    """A call was computed by torch's SDPA instead of a kernel of this library."""


def attention_forward(
    reason: str,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None,
    is_causal: bool | str,
    attn_mask: Tensor | None,
    window: tuple[int, int] | None,
    softcap: float | None,
    block_mask: BlockMask | None,
    return_lse: bool,
    out: Tensor | None,
) -> Any:
    """`blackwell_sparsek.attention_forward` by torch: same arguments, same meaning, differentiable.

    Dense attention, bool masks and additive ones of Q's dtype go to `scaled_dot_product_attention`;
    softcap, the LSE and other additive masks (fp32's numbers do not fit into fp16), which it lacks,
    to plain matrix products in fp32. Every mask is materialised.
    """
    from blackwell_sparsek.torch_op import memory_order  # which imports this module

    warnings.warn(f"computed by torch's SDPA: {reason}", FallbackWarning, _callers_level())
    if attn_mask is not None:
        attn_mask = torch.atleast_2d(attn_mask)  # SDPA takes none of fewer dimensions
    allowed = _allowed(Q, K, is_causal, window, attn_mask, block_mask)
    bias = attn_mask if attn_mask is not None and attn_mask.dtype != torch.bool else None
    if bias is not None:
        added = bias != -torch.inf
        allowed = added if allowed is None else allowed & added
    groups = Q.shape[1] // K.shape[1] if K.shape[1] else 1
    if softcap or return_lse or (bias is not None and bias.dtype != Q.dtype):
        with torch.autocast(Q.device.type, enabled=False):  # Q, K and V are cast already
            result, lse = _products(Q, K, V, scale, softcap, allowed, bias, groups)
    else:
        mask = allowed
        if bias is not None and allowed is not None:
            mask = bias.masked_fill(~allowed, -torch.inf)
        result = scaled_dot_product_attention(Q, K, V, mask, scale=scale, enable_gqa=groups > 1)
        lse = None
        if allowed is not None:
            result = result.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    if out is not None:
        result = out.copy_(result)
    else:
        order = [*memory_order(Q), 3]
        back = [order.index(dim) for dim in range(4)]
        result = result.permute(order).contiguous().permute(back)
    return (result, lse) if return_lse else result


def _callers_level() -> int:
    """`warnings.warn`'s stacklevel of the code that called this library, through torch or not."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "blackwell_sparsek",
        "torch",
    ):
        level, frame = level + 1, frame.f_back
    return level


def _products(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None,
    softcap: float | None,
    allowed: Tensor | None,
    bias: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor]:
    K, V = (t.float().repeat_interleave(groups, 1) for t in (K, V))
    scores = Q.float() @ K.transpose(-1, -2) * (Q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    lse = torch.logsumexp(scores, -1)
    nothing = (lse == -torch.inf).unsqueeze(-1)
    weights = scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
    return (weights @ V).to(Q.dtype), lse


def _allowed(
    Q: Tensor,
    K: Tensor,
    is_causal: bool | str,
    window: tuple[int, int] | None,
    attn_mask: Tensor | None,
    block_mask: BlockMask | None,
) -> Tensor | None:
    """Every boolean rule as one mask, broadcastable to `[batch, q_heads, q_len, kv_len]`."""
    q_len, kv_len = Q.shape[2], K.shape[2]
    rules: list[Tensor] = []
    if is_causal or window is not None:
        offset = 0 if is_causal in (True, "upper_left") else kv_len - q_len
        query = torch.arange(q_len, device=Q.device).unsqueeze(-1) + offset
        key = torch.arange(kv_len, device=Q.device)
        if is_causal:
            rules.append(key <= query)
        if window is not None and window[0] >= 0:
            rules.append(key >= query - window[0])
        if window is not None and window[1] >= 0:
            rules.append(key <= query + window[1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        rules.append(attn_mask)
    if block_mask is not None:
        dense = block_mask.to_dense_mask(q_len, kv_len)
        heads = dense.shape[1]
        if heads not in (1, Q.shape[1]):
            dense = dense.repeat_interleave(Q.shape[1] // heads, 1)
        rules.append(dense)
    if not rules:
        return None
    allowed = rules[0]
    for rule in rules[1:]:
        allowed = allowed & rule
    return allowed
