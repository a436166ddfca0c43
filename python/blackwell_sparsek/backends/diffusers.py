"""Hugging Face diffusers: `model.set_attention_backend("blackwell_sparsek")`.

    from blackwell_sparsek.backends import register_diffusers
    register_diffusers()
    pipeline.transformer.set_attention_backend("blackwell_sparsek")

The dispatcher's `attention_kwargs` may carry `block_mask` (a BlockMask), `window` and `softcap`: a
model's processor that passes attention_kwargs on gets block sparsity by it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blackwell_sparsek._C import UnsupportedError
from blackwell_sparsek.backends import require_framework
from blackwell_sparsek.block_mask import BlockMask
from blackwell_sparsek.layouts import attention_bshd

__all__ = ["NAME", "attention", "register_diffusers"]

NAME = "blackwell_sparsek"


def register_diffusers() -> str:
    """Adds the attention backend to diffusers' list; returns its name. Activates nothing.

    diffusers' list of backends is an Enum, closed by its language; the member is put into its maps.

    Raises:
        ImportError: diffusers is not installed, or has no attention dispatcher.
    """
    require_framework("diffusers", "diffusers")
    dispatch = require_framework("diffusers.models.attention_dispatch", "diffusers")
    names = dispatch.AttentionBackendName
    if NAME not in names._value2member_map_:
        member = str.__new__(names, NAME)
        member._name_, member._value_ = NAME.upper(), NAME
        names._member_map_[member._name_] = member
        names._value2member_map_[NAME] = member
        names._member_names_.append(member._name_)
        checks = [dispatch._check_device, dispatch._check_shape]
        dispatch._AttentionBackendRegistry.register(member, constraints=checks)(attention)
    return NAME


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    block_mask: BlockMask | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    _parallel_config: Any = None,
) -> Any:
    """The backend that diffusers' dispatcher calls; it passes only arguments named here.

    Args:
        query: `[batch, q_len, heads, head_dim]`; key, value: `[batch, kv_len, heads, head_dim]`.
        attn_mask: bool or additive `[batch, kv_len]`, or broadcastable to
            `[batch, heads, q_len, kv_len]`.
        block_mask, window, softcap: as attention_forward's, from `attention_kwargs`.

    Returns:
        `[batch, q_len, heads, head_dim]`; with `return_lse` a pair of it and
        `[batch, q_len, heads]` float32.

    Raises:
        UnsupportedError: dropout, context parallelism, gradients.
    """
    if dropout_p:
        raise UnsupportedError(
            f"dropout_p: must be 0, as no kernel drops attention weights; got {dropout_p}. "
            "Call the model in eval mode."
        )
    if _parallel_config is not None:
        raise UnsupportedError(
            "_parallel_config: must be None, as context parallelism is not supported yet; got a "
            "configuration. Use another attention backend, or no context parallelism."
        )
    if key.shape[2] != query.shape[2] and not enable_gqa:
        raise ValueError(
            f"key: must have the query's {query.shape[2]} heads unless enable_gqa is True; got "
            f"{key.shape[2]}. Pass enable_gqa=True."
        )
    padding = (query.shape[0], key.shape[1])
    if attn_mask is not None and attn_mask.dim() == 2 and tuple(attn_mask.shape) == padding:
        attn_mask = attn_mask[:, None, None, :]
    result = attention_bshd(
        query,
        key,
        value,
        scale,
        is_causal=is_causal,
        attn_mask=attn_mask,
        block_mask=block_mask,
        window=window,
        softcap=softcap,
        return_lse=return_lse,
    )
    return (result[0], result[1].transpose(1, 2)) if return_lse else result
