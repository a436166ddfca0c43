"""PyTorch's own attention functions through BlackwellSparseK, if the user says so.

    from blackwell_sparsek.backends import register_sdpa
    register_sdpa()                                            # a name in torch's registry, no more
    torch.nn.attention.activate_flash_attention_impl("BSK")    # from now on
    torch.nn.attention.restore_flash_attention_impl()          # torch's own again

Once active, the kernels behind `scaled_dot_product_attention` (where torch picks its flash backend)
and `torch.nn.attention.varlen.varlen_attn` are ours. A call that we don't take (dropout, a head_dim
without a kernel, float64, a paged cache, ...) goes to the kernel that was there before; the logger
`blackwell_sparsek` says why at level DEBUG. Gradients of SDPA are torch's: its backward kernels run
on our output and LSE.

On the CPU this is tested; varlen_attn, for which torch itself has no CPU kernel, works there
through us.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek import _C
from blackwell_sparsek.layouts import attention_bshd, attention_packed, same_offsets

__all__ = ["NAME", "register_sdpa"]

NAME = "BSK"
_log = logging.getLogger("blackwell_sparsek")

_NOT_TAKEN = (_C.UnsupportedError, ValueError, TypeError)


def register_sdpa() -> None:
    """Registers the name "BSK" with torch's flash-attention registry. Activates nothing.

    Raises:
        ImportError: this torch has no such registry (it came with 2.10).
    """
    try:
        from torch.nn.attention import register_flash_attention_impl
    except ImportError as error:
        raise ImportError(
            f"torch {torch.__version__} has no registry of flash-attention implementations. "
            "Update torch to 2.10 or later."
        ) from error
    register_flash_attention_impl(NAME, register_fn=_activate)


class _Handle:
    """What torch's registry keeps while we are active."""

    def __init__(self, library: torch.library.Library) -> None:
        self.library: torch.library.Library | None = library

    def remove(self) -> None:
        if self.library is not None:
            self.library._destroy()  # brings the previous kernels back
        self.library = None


def _activate(keys: tuple[str, ...] | None = None) -> _Handle:
    """Puts our kernels in front of torch's, for the CPU and, in a CUDA build, for CUDA.

    All of them or, where torch refuses one, none.
    """
    if keys is None:
        keys = ("CPU", "CUDA") if torch.version.cuda is not None else ("CPU",)
    handle = _Handle(torch.library.Library("aten", "IMPL"))
    try:
        for key in keys:
            for name, make in _OVERRIDES[key].items():
                if _is_operator(name):
                    _override(handle, name, key, make(_previous_kernel(name, key), key))
    except BaseException:
        handle.remove()
        raise
    return handle


def _override(handle: _Handle, name: str, key: str, kernel: Callable[..., Any]) -> None:
    assert handle.library is not None
    with warnings.catch_warnings():  # torch warns of the override that the user asked for
        warnings.simplefilter("ignore")
        handle.library.impl(name, kernel, key, with_keyset=True)


def _is_operator(name: str) -> bool:
    """Whether this torch has it: torch 2.11 has no _flash_attention_forward_no_dropout_inplace."""
    return hasattr(torch.ops.aten, name)


def _previous_kernel(name: str, key: str) -> Any:
    """The kernel that we stand in front of, or None if there is none."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key):
        return None
    return torch.library.get_kernel(f"aten::{name}", key)


def _previous(kernel: Any, reason: str, keys: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    _log.debug("SDPA: torch's own kernel takes the call: %s", reason)
    if kernel is None:
        raise _C.UnsupportedError(
            f"query: this call cannot be taken by BlackwellSparseK ({reason}), and torch has no "
            "kernel of its own for this device. Change the call, or move the tensors to a GPU."
        )
    return kernel.call_boxed(keys, *args, **kwargs)


def _native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    is_causal: bool,
    attn_mask: Tensor | None,
    out: Tensor,
) -> Tensor:
    """Fills `out` and returns the LSE. Not through attention_forward: its fallback calls SDPA."""
    result = _C.attention_forward(
        q, k, v, scale, int(is_causal), -1, -1, 0.0, attn_mask, None, True, out, _lse_like(q)
    )
    lse: Tensor = result[1]
    return lse


def _lse_like(q: Tensor) -> Tensor:
    return q.new_empty(q.shape[:3], dtype=torch.float32)


def _sdpa_cpu(previous: Any, key: str) -> Callable[..., Any]:
    """aten::_scaled_dot_product_flash_attention_for_cpu."""

    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        query, value = args[0], args[2]
        dropout_p = args[3] if len(args) > 3 else 0.0
        is_causal = args[4] if len(args) > 4 else False
        mask = kwargs.get("attn_mask")
        reason = None
        if dropout_p:
            reason = "dropout"
        elif query.shape[-1] != value.shape[-1]:
            reason = "V has another head_dim than Q"
        elif mask is not None and torch.is_grad_enabled() and _wants_gradient(args[:3]):
            # Rows that a mask empties have the LSE 0 in torch and -inf here; its backward reads it.
            reason = "gradients under a mask"
        if reason is None:
            try:
                out = torch.empty_like(query)
                q, k, v = args[:3]
                lse = _native(q, k, v, kwargs.get("scale"), is_causal, mask, out)
                # torch's layout of the LSE, which its compiler relies on: [batch, length, heads]
                return out, lse.transpose(1, 2).contiguous().transpose(1, 2)
            except _NOT_TAKEN as error:
                reason = str(error)
        return _previous(previous, reason, keys, args, kwargs)

    return kernel


def _sdpa_cuda(previous: Any, key: str) -> Callable[..., Any]:
    """aten::_scaled_dot_product_flash_attention."""

    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        query, k = args[0], args[1]
        dropout_p, is_causal, debug_mask = args[3:] + (0.0, False, False)[len(args) - 3 :]
        q_len, kv_len = query.shape[2], k.shape[2]
        reason = None
        if dropout_p or debug_mask:
            reason = "dropout or its debug mask"
        elif is_causal and q_len != kv_len:
            reason = "causal with unequal lengths, whose alignment torch's kernel defines"
        if reason is None:
            try:
                out = torch.empty_like(query)
                q, k, v = args[:3]
                lse = _native(q, k, v, kwargs.get("scale"), is_causal, None, out)
                return out, lse, None, None, q_len, kv_len, *_no_dropout_state(query)
            except _NOT_TAKEN as error:
                reason = str(error)
        return _previous(previous, reason, keys, args, kwargs)

    return kernel


def _flash_forward(previous: Any, key: str) -> Callable[..., Any]:
    """aten::_flash_attention_forward: [batch, length, heads, head_dim], or packed with cum_seq."""

    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        reason = _flash_reason(key, args, kwargs)
        if reason is None:
            try:
                out, lse = _flash_compute(args, kwargs)
                return out, lse, *_no_dropout_state(args[0])
            except _NOT_TAKEN as error:
                reason = str(error)
        return _previous(previous, reason, keys, args, kwargs)

    return kernel


def _flash_inplace(previous: Any, key: str) -> Callable[..., Any]:
    """aten::_flash_attention_forward_no_dropout_inplace: the same into `out`, returning the LSE."""

    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        reason = _flash_reason(key, args[1:], kwargs)
        if reason is None:
            try:
                out, lse = _flash_compute(args[1:], kwargs)
                args[0].copy_(out)
                return lse
            except _NOT_TAKEN as error:
                reason = str(error)
        return _previous(previous, reason, keys, args, kwargs)

    return kernel


_FLASH_KNOWN = {"scale", "window_size_left", "window_size_right", "seqused_k", "num_splits"}


def _flash_reason(key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    query, keys_tensor, _, cum_seq_q, cum_seq_k, _, _, dropout_p, is_causal, debug_mask = args
    if dropout_p or debug_mask:
        return "dropout or its debug mask"
    unknown = [n for n, value in kwargs.items() if n not in _FLASH_KNOWN and value is not None]
    if unknown:
        return f"no kernel for {', '.join(unknown)}"
    if cum_seq_q is None:
        bounded = is_causal or _window(kwargs) is not None
        if key != "CPU" and bounded and query.shape[1] != keys_tensor.shape[1]:
            return "a diagonal with unequal lengths, whose alignment torch's kernel defines"
        if kwargs.get("seqused_k") is not None:
            return "seqused_k without packed sequences"
        return None
    if cum_seq_k is None:
        return "keys without offsets"
    same = same_offsets(cum_seq_q, cum_seq_k)
    if key != "CPU" and (not same or kwargs.get("seqused_k") is not None):
        return "packed sequences of unequal lengths, whose offsets would be read on the host"
    return None


def _flash_compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    query, keys, values, cum_seq_q, cum_seq_k, max_q, max_k, _, is_causal, _ = args
    rules: dict[str, Any] = {
        "is_causal": "lower_right" if is_causal else False,
        "window": _window(kwargs),
        "return_lse": True,
    }
    with torch.no_grad():  # below autograd, where the inputs still say requires_grad
        if cum_seq_q is None:
            result = attention_bshd(query, keys, values, kwargs.get("scale"), **rules)
        else:
            result = attention_packed(
                query,
                keys,
                values,
                cum_seq_q,
                cum_seq_k,
                max(max_q, max_k),
                kwargs.get("scale"),
                seqused_k=kwargs.get("seqused_k"),
                **rules,
            )
    return result[0], result[1]


def _window(kwargs: dict[str, Any]) -> tuple[int, int] | None:
    sides = (kwargs.get("window_size_left"), kwargs.get("window_size_right"))
    left, right = (-1 if side is None else side for side in sides)
    return None if left < 0 and right < 0 else (left, right)


def _no_dropout_state(query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The random state and debug mask of torch's signature, which only dropout reads."""
    return (
        torch.zeros(2, dtype=torch.uint64, device=query.device),
        torch.zeros((), dtype=torch.uint64, device=query.device),
        query.new_empty(0),
    )


def _wants_gradient(tensors: tuple[Any, ...]) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


_OVERRIDES: dict[str, dict[str, Callable[[Any, str], Callable[..., Any]]]] = {
    "CPU": {
        "_scaled_dot_product_flash_attention_for_cpu": _sdpa_cpu,
        "_flash_attention_forward": _flash_forward,
        "_flash_attention_forward_no_dropout_inplace": _flash_inplace,
    },
    "CUDA": {
        "_scaled_dot_product_flash_attention": _sdpa_cuda,
        "_flash_attention_forward": _flash_forward,
        "_flash_attention_forward_no_dropout_inplace": _flash_inplace,
    },
}
