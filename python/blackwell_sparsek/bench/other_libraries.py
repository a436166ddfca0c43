"""Peers from other libraries, where they are installed. We have not run them: the test GPU has none
of them, so that what is called here rests on their documentation; results are checked like ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from blackwell_sparsek.bench.cases import Case

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def _plain(case: Case) -> None:
    """Dense and causal problems only, in which upper-left and lower-right are the same."""
    if case.mask or case.window or case.blocks or case.softcap:
        raise ValueError("this peer is made for dense and causal problems only")
    if case.is_causal and case.q_len != case.kv_len:
        raise ValueError("this peer is made for causal problems with q_len = kv_len only")


def _module(name: str) -> Any:
    """ImportError says that it is not installed."""
    return importlib.import_module(name)


def _rows_first(function: Callable[..., Any], **options: Any) -> Attention:
    """Of a function on [batch, length, heads, head_dim] that may return the LSE besides."""

    def attention(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        result = function(Q.transpose(1, 2), K.transpose(1, 2), V.transpose(1, 2), **options)
        output: Tensor = result[0] if isinstance(result, tuple) else result
        return output.transpose(1, 2)

    return attention


def _flash_attention(module: str) -> Callable[[Case], Attention]:
    def make(case: Case) -> Attention:
        function = _module(module).flash_attn_func
        _plain(case)
        return _rows_first(function, causal=bool(case.is_causal))

    return make


def _xformers(case: Case) -> Attention:
    ops = _module("xformers.ops")
    _plain(case)
    if case.q_heads != case.kv_heads:
        raise ValueError("xFormers' peer is made for as many key heads as query heads")
    bias = ops.LowerTriangularMask() if case.is_causal else None
    return _rows_first(ops.memory_efficient_attention, attn_bias=bias)


def _flashinfer(case: Case) -> Attention:
    function = _module("flashinfer").single_prefill_with_kv_cache
    _plain(case)
    if case.batch != 1:
        raise ValueError("FlashInfer's peer is made for batch 1")

    def attention(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        arguments = [tensor[0].transpose(0, 1) for tensor in (Q, K, V)]
        result: Tensor = function(*arguments, causal=bool(case.is_causal))
        return result.transpose(0, 1).unsqueeze(0)

    return attention


ATTENTIONS: dict[str, Callable[[Case], Attention]] = {
    "flash_attention_3": _flash_attention("flash_attn_interface"),
    "flash_attention_4": _flash_attention("flash_attn.cute"),
    "xformers": _xformers,
    "flashinfer": _flashinfer,
}
