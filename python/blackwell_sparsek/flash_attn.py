"""FlashAttention's names, computed by BlackwellSparseK.

    from blackwell_sparsek.flash_attn import flash_attn_func  # instead of: from flash_attn import ...

Layouts, argument order and results are FlashAttention 2's (`[batch, length, heads, head_dim]`;
`causal` aligned lower-right; `softmax_scale` 1/sqrt(head_dim) by default). Two differences are on
purpose: a query that may attend to nothing has the LSE -inf (FlashAttention: +inf), and `block_mask`
is an argument of ours. What has no kernel (dropout, ALiBi, a paged cache, gradients) raises.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blackwell_sparsek._C import UnsupportedError
from blackwell_sparsek.block_mask import BlockMask
from blackwell_sparsek.layouts import attention_bshd, attention_packed, check_rank

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    block_mask: BlockMask | None = None,
) -> Any:
    """FlashAttention's `flash_attn_func`.

    Args:
        q: `[batch, q_len, q_heads, head_dim]`.
        k: `[batch, kv_len, kv_heads, head_dim]`, v: `[batch, kv_len, kv_heads, v_head_dim]`.
        dropout_p: must be 0.
        softmax_scale: factor of the scores; default 1/sqrt(head_dim).
        causal: the last query sees the last key.
        window_size: (left, right) keys around that diagonal, -1 = unbounded.
        softcap: scores become softcap * tanh(scores / softcap); 0 = none.
        alibi_slopes: must be None.
        deterministic: accepted; the forward is deterministic either way.
        return_attn_probs: return `(out, softmax_lse, None)`; the attention weights, which
            FlashAttention fills for dropout only, are not computed.
        block_mask: block sparsity, ours.

    Returns:
        `[batch, q_len, q_heads, v_head_dim]`; with `return_attn_probs` a triple, softmax_lse being
        `[batch, q_heads, q_len]` float32.

    Raises:
        UnsupportedError: dropout_p, alibi_slopes, or inputs that require grad (unless
            Config(fallback='sdpa')). TypeError, ValueError: a shape, dtype or value breaks a rule.
    """
    _refuse(dropout_p, alibi_slopes)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_rank(name, tensor, 4, "[batch, length, heads, head_dim]")
    result = attention_bshd(
        q,
        k,
        v,
        softmax_scale,
        is_causal="lower_right" if causal else False,
        window=window_size,
        softcap=softcap or None,
        block_mask=block_mask,
        return_lse=return_attn_probs,
    )
    return (*result, None) if return_attn_probs else result


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    block_mask: BlockMask | None = None,
) -> Any:
    """`flash_attn_func` of `qkv` `[batch, length, 3, heads, head_dim]`, taken without a copy."""
    _check_packed("qkv", qkv, 3)
    q, k, v = qkv.unbind(2)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
        block_mask=block_mask,
    )


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    block_mask: BlockMask | None = None,
) -> Any:
    """`flash_attn_func` of `kv` `[batch, kv_len, 2, kv_heads, head_dim]`, taken without a copy."""
    _check_packed("kv", kv, 2)
    k, v = kv.unbind(2)
    return flash_attn_func(
        q,
        k,
        v,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        softcap,
        alibi_slopes,
        deterministic,
        return_attn_probs,
        block_mask=block_mask,
    )


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Any:
    """FlashAttention's `flash_attn_varlen_func`: sequences packed one after the other.

    One call with a document BlockMask where `cu_seqlens_q` is `cu_seqlens_k`, on a GPU or under
    torch.compile; elsewhere one call per sequence, for which the offsets are read on the host (on a
    GPU that waits for the device, and cannot be captured in a CUDA graph).

    Args:
        q: `[q_tokens, q_heads, head_dim]`; k, v: `[kv_tokens, kv_heads, head_dim]`.
        cu_seqlens_q, cu_seqlens_k: int32 `[sequences + 1]`, each sequence's first token, and the
            end. Tokens beyond the last end give zeros.
        max_seqlen_q, max_seqlen_k: lengths that no sequence exceeds.
        block_table: must be None (no paged cache yet).
        Others as `flash_attn_func`.

    Returns:
        `[q_tokens, q_heads, v_head_dim]`; with `return_attn_probs` `(out, softmax_lse, None)` with
        softmax_lse `[q_heads, q_tokens]` float32.

    Raises:
        As `flash_attn_func`.
    """
    _refuse(dropout_p, alibi_slopes)
    if block_table is not None:
        raise UnsupportedError(
            "block_table: must be None, as no kernel reads a paged cache yet; got a tensor. "
            "Gather the pages into k and v."
        )
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_rank(name, tensor, 3, "[tokens, heads, head_dim]")
    result = attention_packed(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max(max_seqlen_q, max_seqlen_k),
        softmax_scale,
        is_causal="lower_right" if causal else False,
        window=window_size,
        softcap=softcap or None,
        return_lse=return_attn_probs,
    )
    return (*result, None) if return_attn_probs else result


def _refuse(dropout_p: float, alibi_slopes: Tensor | None) -> None:
    if dropout_p:
        raise UnsupportedError(
            f"dropout_p: must be 0, as no kernel drops attention weights; got {dropout_p}. "
            "Call the model in eval mode, or use torch's scaled_dot_product_attention."
        )
    if alibi_slopes is not None:
        raise UnsupportedError(
            "alibi_slopes: must be None; got a tensor. Pass the biases as attn_mask to "
            "blackwell_sparsek.attention_forward."
        )


def _check_packed(name: str, tensor: object, count: int) -> None:
    check_rank(name, tensor, 5, f"[batch, length, {count}, heads, head_dim]")
    assert isinstance(tensor, Tensor)
    if tensor.shape[2] != count:
        raise ValueError(
            f"{name}: must have {count} as its third size, [batch, length, {count}, heads, "
            f"head_dim]; got shape {tuple(tensor.shape)}. Stack the tensors with "
            "torch.stack(..., dim=2)."
        )
