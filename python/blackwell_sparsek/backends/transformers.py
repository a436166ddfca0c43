"""Hugging Face transformers: `attn_implementation="blackwell_sparsek"`.

    from blackwell_sparsek.backends import register_transformers
    register_transformers()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="blackwell_sparsek")

Grouped-query attention, softcap, sliding windows, padding and caches run natively. Masks are
transformers' own bool masks (its `sdpa_mask`), which the kernel reads without turning them into
floats. Attention sinks, dropout, a paged cache and gradients have no kernel: they raise (gradients
are torch's under `Config(fallback='sdpa')`).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek._C import UnsupportedError
from blackwell_sparsek.backends import require_framework
from blackwell_sparsek.layouts import attention_bshd

__all__ = ["NAME", "attention", "register_transformers"]

NAME = "blackwell_sparsek"


def register_transformers() -> str:
    """Registers the attention function and its mask function; returns their name.

    Nothing uses them before a model asks for the name.

    Raises:
        ImportError: transformers is not installed, or older than 5.0.
    """
    require_framework("transformers", "transformers")
    masking = require_framework("transformers.masking_utils", "transformers")
    modeling = require_framework("transformers.modeling_utils", "transformers")
    modeling.AttentionInterface.register(NAME, attention)
    # Without a mask function of this name transformers would drop every mask silently.
    masking.AttentionMaskInterface.register(NAME, masking.sdpa_mask)
    return NAME


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls.

    Args:
        query: `[batch, q_heads, q_len, head_dim]`; key, value: `[batch, kv_heads, kv_len, ...]`,
            not repeated.
        attention_mask: of `sdpa_mask`: bool or float `[batch, 1 | q_heads, q_len, kv_len]`, which
            then holds every rule (causal, window, padding); None = causal if the module is.
        position_bias: added to the scores (T5).
        kwargs: others that transformers passes to every implementation; a sliding window is in
            `attention_mask` already.

    Returns:
        `[batch, q_len, q_heads, head_dim]` and None (attention weights are never materialised).

    Raises:
        UnsupportedError: dropout, sinks, a paged cache, gradients.
    """
    _refuse(module, dropout, s_aux, cache, kwargs)
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    # As sdpa's: one query sees the whole cache; more, without a mask, start at the first key.
    causal = attention_mask is None and is_causal and query.shape[2] > 1
    mask = attention_mask
    if position_bias is not None:
        mask = _with_bias(position_bias, attention_mask)
    out = attention_bshd(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        scaling,
        is_causal="upper_left" if causal else False,
        attn_mask=mask,
        softcap=softcap,
    )
    return out, None


def _with_bias(bias: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return bias
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def _refuse(
    module: torch.nn.Module, dropout: float, s_aux: Any, cache: Any, kwargs: dict[str, Any]
) -> None:
    remedy = f"Use attn_implementation='eager' or 'sdpa' for {type(module).__name__}."
    if dropout:
        raise UnsupportedError(
            f"dropout: must be 0, as no kernel drops attention weights; got {dropout}. "
            f"Call model.eval(). {remedy}"
        )
    sinks = s_aux if s_aux is not None else kwargs.get("sinks")
    if sinks is not None:
        raise UnsupportedError(
            "s_aux: must be None, as no kernel has learnable attention sinks yet; got a tensor. "
            "Use attn_implementation='eager' for this model."
        )
    if cache is not None:
        raise UnsupportedError(
            "cache: must be None, as no kernel reads a paged cache yet; got "
            f"{type(cache).__name__}. Generate without continuous batching. {remedy}"
        )
    if kwargs.get("output_attentions"):
        warnings.warn(
            "output_attentions=True: attention weights are never materialised here, so None is "
            "returned for them. Use attn_implementation='eager' to see them.",
            stacklevel=3,
        )
