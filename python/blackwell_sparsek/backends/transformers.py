"""Hugging Face transformers: `attn_implementation="blackwell_sparsek"`.

    from blackwell_sparsek.backends import register_transformers
    register_transformers()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="blackwell_sparsek")

Grouped-query attention, softcap, sliding windows, padding and caches run natively. Masks are
transformers' own bool masks (its `sdpa_mask`), which the kernel reads without turning them into
floats. Attention sinks, dropout, a paged cache, the keys that a DeepSeek-V3.2-like indexer picks and
gradients have no kernel: they raise (gradients are torch's under `Config(fallback='sdpa')`). So do
models that never ask transformers for an attention function (Bloom, XGLM, MPT, ...).
"""

from __future__ import annotations

import functools
import sys
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
    masking.AttentionMaskInterface.register(NAME, make_mask)
    return NAME


def make_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask function that transformers calls: its `sdpa_mask`, for models that will use it.

    Raises:
        UnsupportedError: the model computes attention itself, for which a mask of this kind is wrong.
    """
    config = kwargs.get("config")
    if config is not None and not _asks_for_attention(type(config)):
        raise UnsupportedError(
            f"attn_implementation: must be 'eager' for models of {type(config).__name__}, which compute "
            f"attention themselves instead of asking transformers for a function; got {NAME!r}. "
            "Use attn_implementation='eager' for this model."
        )
    from transformers.masking_utils import sdpa_mask

    result: Tensor | None = sdpa_mask(*args, **kwargs)
    return result


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _asks_for_attention(config: type) -> bool:
    """Whether models of this configuration use transformers' attention functions."""
    return _a_model_asks(config)


@functools.cache
def _a_model_asks(config: type) -> bool:
    from transformers import PreTrainedModel

    models = [model for model in _subclasses(PreTrainedModel) if model.config_class is config]
    asking = (
        model._supports_attention_backend
        or hasattr(sys.modules.get(model.__module__), "ALL_ATTENTION_FUNCTIONS")
        for model in models
    )
    return not models or any(asking)


def _subclasses(cls: type) -> list[Any]:
    below: list[Any] = cls.__subclasses__()
    return below + [deeper for one in below for deeper in _subclasses(one)]


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
        UnsupportedError: dropout, sinks, a paged cache, keys picked by an indexer, packed sequences
            without a mask, gradients.
    """
    _refuse(module, attention_mask, dropout, kwargs)
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


# What transformers hands to an attention function because it changes the result.
_UNSUPPORTED = {
    "s_aux": "no kernel has learnable attention sinks yet",
    "sinks": "no kernel has learnable attention sinks yet",
    "indices": "no kernel takes the keys that a model's indexer picks for each query",
    "block_indices": "no kernel takes the blocks that a model's indexer picks for each query",
    "cache": "no kernel reads a paged cache yet (generate without continuous batching)",
}


def _refuse(
    module: torch.nn.Module,
    attention_mask: Tensor | None,
    dropout: float,
    kwargs: dict[str, Any],
) -> None:
    remedy = f"Use attn_implementation='eager' or 'sdpa' for {type(module).__name__}."
    if dropout:
        raise UnsupportedError(
            f"dropout: must be 0, as no kernel drops attention weights; got {dropout}. "
            f"Call model.eval(). {remedy}"
        )
    for name, reason in _UNSUPPORTED.items():
        given = kwargs.get(name)
        if given is not None:
            raise UnsupportedError(
                f"{name}: must be None, as {reason}; got a {type(given).__name__}. {remedy}"
            )
    offsets = kwargs.get("cu_seq_lens_q")
    if attention_mask is None and offsets is not None and offsets.shape[0] > 2:
        raise UnsupportedError(
            f"cu_seq_lens_q: must come with a mask, as packed sequences are told apart by it; got "
            f"{offsets.shape[0] - 1} sequences and no mask. Pass position_ids that start anew with "
            "each sequence, and use_cache=False: transformers makes the mask from them."
        )
    if kwargs.get("output_attentions"):
        warnings.warn(
            "output_attentions=True: attention weights are never materialised here, so None is "
            "returned for them. Use attn_implementation='eager' to see them.",
            stacklevel=3,
        )
