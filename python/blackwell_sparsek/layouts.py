"""The same attention in the layouts of other libraries.

`attention_bshd`: [batch, length, heads, head_dim] (FlashAttention, xFormers, diffusers).
`attention_packed`: [tokens, heads, head_dim], sequences one after the other (varlen).
Both only take views; no input is copied.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek import attention
from blackwell_sparsek.block_mask import BlockMask

__all__ = ["attention_bshd", "attention_packed"]


def attention_bshd(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None = None,
    *,
    return_lse: bool = False,
    out: Tensor | None = None,
    **options: Any,
) -> Any:
    """`attention_forward` for `[batch, length, heads, head_dim]` tensors.

    Args:
        Q: `[batch, q_len, q_heads, head_dim]`.
        K: `[batch, kv_len, kv_heads, head_dim]`. V: `[batch, kv_len, kv_heads, v_head_dim]`.
        out: `[batch, q_len, q_heads, v_head_dim]` to write into, or None.
        options: `is_causal`, `attn_mask`, `window`, `softcap`, `block_mask` of attention_forward.

    Returns:
        `[batch, q_len, q_heads, v_head_dim]`, contiguous unless `out` was given; with `return_lse`
        a pair of it and `[batch, q_heads, q_len]` float32.

    Raises:
        As attention_forward; ValueError for tensors that do not have 4 dimensions.
    """
    for name, tensor in (("Q", Q), ("K", K), ("V", V)):
        check_rank(name, tensor, 4, "[batch, length, heads, head_dim]")
    q, k, v = Q.transpose(1, 2), K.transpose(1, 2), V.transpose(1, 2)
    target = None if out is None else out.transpose(1, 2)
    result = attention.attention_forward(
        q, k, v, scale, return_lse=return_lse, out=target, **options
    )
    result, lse = result if return_lse else (result, None)
    # Where Q's rows lie one after the other, so do the result's, and nothing is copied.
    final = result.transpose(1, 2).contiguous() if out is None else out
    return (final, lse) if return_lse else final


def attention_packed(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    scale: float | None = None,
    *,
    is_causal: bool | str = False,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    seqused_k: Tensor | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention of sequences that lie one after the other; each query sees its own sequence only.

    Where `cu_seqlens_q` and `cu_seqlens_k` are the same tensor (self-attention) on a GPU or under
    torch.compile, one call with a document BlockMask computes all of them without host
    synchronisation; elsewhere each sequence is one call, and the offsets are read on the host.

    Args:
        Q: `[q_tokens, q_heads, head_dim]`. K: `[kv_tokens, kv_heads, head_dim]`.
        V: `[kv_tokens, kv_heads, v_head_dim]`.
        cu_seqlens_q, cu_seqlens_k: int32/int64 `[sequences + 1]`, first tokens and the end.
        max_seqlen_q: a length that no sequence of queries exceeds.
        is_causal: False or "lower_right": the last query of a sequence sees its last key.
        window: (left, right) around that diagonal, -1 = unbounded.
        seqused_k: int32/int64 `[sequences]`, or None: how many keys of each sequence are valid.

    Returns:
        `[q_tokens, q_heads, v_head_dim]`, zeros for tokens outside every sequence; with
        `return_lse` a pair of it and `[q_heads, q_tokens]` float32.

    Raises:
        As attention_forward; ValueError, TypeError for shapes and offsets that break a rule.
    """
    for name, tensor in (("Q", Q), ("K", K), ("V", V)):
        check_rank(name, tensor, 3, "[tokens, heads, head_dim]")
    for name, tensor in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        _check_offsets(name, tensor)
    rules: dict[str, Any] = {"is_causal": is_causal, "window": window, "softcap": softcap}
    rules["return_lse"] = return_lse
    on_host = Q.device.type == "cpu" and not torch.compiler.is_compiling()
    if same_offsets(cu_seqlens_q, cu_seqlens_k) and seqused_k is None and not on_host:
        documents = BlockMask.document(
            cu_seqlens=cu_seqlens_q, q_len=Q.shape[0], max_document_len=max(max_seqlen_q, 1)
        )
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (Q, K, V))
        result = attention.attention_forward(q, k, v, scale, block_mask=documents, **rules)
        result, lse = result if return_lse else (result, None)
        final = result.squeeze(0).transpose(0, 1).contiguous()
        return (final, None if lse is None else lse.squeeze(0)) if return_lse else final
    return _one_by_one(Q, K, V, cu_seqlens_q, cu_seqlens_k, seqused_k, scale, rules)


def _one_by_one(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    seqused_k: Tensor | None,
    scale: float | None,
    rules: dict[str, Any],
) -> Any:
    queries = list(itertools.pairwise(_ascending("cu_seqlens_q", cu_seqlens_q, Q.shape[0])))
    keys = list(itertools.pairwise(_ascending("cu_seqlens_k", cu_seqlens_k, K.shape[0])))
    if len(queries) != len(keys):
        raise ValueError(
            f"cu_seqlens_k: must describe as many sequences as cu_seqlens_q, {len(queries)}; got "
            f"{len(keys)}. Pass one more offset than there are sequences."
        )
    if seqused_k is not None:
        used = seqused_k.tolist()
        if len(used) != len(keys):
            raise ValueError(
                f"seqused_k: must have one entry per sequence, {len(keys)}; got {len(used)}."
            )
        for (first, last), count in zip(keys, used, strict=True):
            if not 0 <= count <= last - first:
                raise ValueError(
                    f"seqused_k: must lie between 0 and the sequence's {last - first} keys; got "
                    f"{count}. Correct it, or cu_seqlens_k."
                )
        keys = [(first, first + count) for (first, _), count in zip(keys, used, strict=True)]
    out = Q.new_zeros((*Q.shape[:2], V.shape[2]))
    lse = None
    if rules["return_lse"]:
        lse = Q.new_full((Q.shape[1], Q.shape[0]), -torch.inf, dtype=torch.float32)
    for (q_first, q_last), (k_first, k_last) in zip(queries, keys, strict=True):
        if q_first == q_last:
            continue
        result = attention.attention_forward(
            Q[q_first:q_last].transpose(0, 1).unsqueeze(0),
            K[k_first:k_last].transpose(0, 1).unsqueeze(0),
            V[k_first:k_last].transpose(0, 1).unsqueeze(0),
            scale,
            out=out[q_first:q_last].transpose(0, 1).unsqueeze(0),
            **rules,
        )
        if lse is not None:
            lse[:, q_first:q_last] = result[1].squeeze(0)
    return out if lse is None else (out, lse)


def check_rank(name: str, tensor: object, rank: int, meaning: str) -> None:
    """Raises TypeError or ValueError unless `tensor` is a tensor with `rank` dimensions."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name}: must be a torch.Tensor; got {type(tensor).__name__}. "
            "Convert it with torch.as_tensor."
        )
    if tensor.dim() != rank:
        raise ValueError(
            f"{name}: must have {rank} dimensions {meaning}; got shape {tuple(tensor.shape)}. "
            "Reshape it."
        )


def _check_offsets(name: str, offsets: object) -> None:
    if not isinstance(offsets, Tensor) or offsets.dtype not in (torch.int32, torch.int64):
        got = offsets.dtype if isinstance(offsets, Tensor) else type(offsets).__name__
        raise TypeError(
            f"{name}: must be an int32 or int64 tensor [sequences + 1]; got {got}. "
            "Convert it with .int()."
        )
    if offsets.dim() != 1 or offsets.shape[0] < 1:
        raise ValueError(
            f"{name}: must have one dimension, [sequences + 1]; got {tuple(offsets.shape)}. "
            "Pass the first token of each sequence and the end of the last."
        )


def _ascending(name: str, offsets: Tensor, tokens: int) -> list[int]:
    values: list[int] = offsets.tolist()
    if values != sorted(values) or values[0] < 0 or values[-1] > tokens:
        raise ValueError(
            f"{name}: must rise from 0 to at most the number of tokens, {tokens}; got {values}. "
            "Pass cumulative lengths."
        )
    return values


def same_offsets(a: Tensor, b: Tensor) -> bool:
    """Whether both are the same offsets, as far as can be told without reading them."""
    if a is b:
        return True
    if torch.compiler.is_compiling() or a.device != b.device or a.device.type != "cuda":
        return False
    return (a.data_ptr(), a.shape, a.dtype, a.stride()) == (
        b.data_ptr(),
        b.shape,
        b.dtype,
        b.stride(),
    )
