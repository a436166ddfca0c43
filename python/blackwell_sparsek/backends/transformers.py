"""Hugging Face transformers: `attn_implementation="blackwell_sparsek"`.

    from blackwell_sparsek.backends import register_transformers
    register_transformers()
    model = AutoModel.from_pretrained(path, attn_implementation="blackwell_sparsek")

Tested on the CPU with transformers 5.23; never run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek.attention import attention_forward
from blackwell_sparsek.backends import require_framework

__all__ = ["NAME", "register_transformers"]

NAME = "blackwell_sparsek"


def register_transformers() -> None:
    """Registers our attention and mask functions with transformers under "blackwell_sparsek".

    Changes nothing for models that do not ask for that name. May be called any number of times.

    Raises:
        ImportError: transformers is not installed; the message names the extra.
    """
    transformers = require_framework("transformers", "transformers")
    masking = require_framework("transformers.masking_utils", "transformers")
    transformers.AttentionInterface.register(NAME, _attention)
    # Without a mask function of the same name transformers would pass no mask at all. This one
    # gives a bool mask [batch, 1, q_len, kv_len], or None where causality says everything.
    masking.AttentionMaskInterface.register(NAME, masking.sdpa_mask)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function.

    Args:
        query: `[batch, q_heads, q_len, head_dim]`; key, value: `[batch, kv_heads, kv_len, ...]`.
        attention_mask: bool (True = may attend) or additive, or None: causal as the module is.

    Returns:
        `[batch, q_len, q_heads, v_head_dim]`, contiguous; and None (no attention weights).
    """
    refused = {
        "dropout": ("0", dropout, "Call model.eval(), or set attention_dropout=0."),
        "s_aux": ("None (no attention sinks)", s_aux, "Use attn_implementation='eager'."),
        "cache": ("None (no paged cache)", options.get("cache"), "Use generate() without paging."),
    }
    for name, (rule, value_got, remedy) in refused.items():
        if value_got is not None and (isinstance(value_got, Tensor) or value_got):
            raise NotImplementedError(
                f"{name}: must be {rule} with attn_implementation='{NAME}'; got "
                f"{value_got if isinstance(value_got, float) else type(value_got).__name__}. {remedy}"
            )
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    # A mask already holds causality and the sliding window; without one a lone query sees all keys.
    causal = "lower_right" if attention_mask is None and is_causal and query.shape[2] > 1 else False
    mask = attention_mask
    if position_bias is not None:
        mask = position_bias
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            mask = torch.where(attention_mask, position_bias, -torch.inf)
        elif attention_mask is not None:
            mask = position_bias + attention_mask
    out = attention_forward(
        query, key, value, scaling, is_causal=causal, attn_mask=mask, softcap=softcap
    )
    return out.transpose(1, 2).contiguous(), None
