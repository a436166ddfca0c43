"""`SparseKAttention`: attention as an nn.Module in xFormers' layout. Needs nothing but torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from blackwell_sparsek.block_mask import BlockMask
from blackwell_sparsek.layouts import attention_bshd

__all__ = ["SparseKAttention"]


class SparseKAttention(nn.Module):
    """Exact or block-sparse attention of `[batch, length, heads, head_dim]` tensors.

    Args:
        scale: factor of the scores; default 1/sqrt(head_dim).
        is_causal: False, True ("upper_left") or "lower_right".
        window: (left, right) keys around the diagonal, -1 = unbounded.
        softcap: scores become softcap * tanh(scores / softcap).
    """

    def __init__(
        self,
        scale: float | None = None,
        *,
        is_causal: bool | str = False,
        window: tuple[int, int] | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.is_causal = is_causal
        self.window = window
        self.softcap = softcap

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        attn_mask: Tensor | None = None,
        block_mask: BlockMask | None = None,
    ) -> Any:
        """Attention of query `[batch, q_len, q_heads, head_dim]` over key and value
        `[batch, kv_len, kv_heads, head_dim]`.

        Args:
            attn_mask: bool or additive, broadcastable to `[batch, q_heads, q_len, kv_len]`.
            block_mask: which blocks are computed.

        Returns:
            `[batch, q_len, q_heads, v_head_dim]`.
        """
        return attention_bshd(
            query,
            key,
            value,
            self.scale,
            is_causal=self.is_causal,
            window=self.window,
            softcap=self.softcap,
            attn_mask=attn_mask,
            block_mask=block_mask,
        )

    def extra_repr(self) -> str:
        given = {name: getattr(self, name) for name in ("scale", "is_causal", "window", "softcap")}
        return ", ".join(f"{n}={v!r}" for n, v in given.items() if v not in (None, False))
