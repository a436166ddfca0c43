"""Calls whose tensors are not plain: the native entry must not read their memory as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek import core, fallback
from blackwell_sparsek._C import UnsupportedError

_LOW_PRECISION = (torch.float32, torch.float16, torch.bfloat16)


def attention_forward(
    run: Callable[..., Any],
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None,
    is_causal: bool | str,
    attn_mask: Tensor | None,
    *options: Any,
) -> Any:
    """Makes the tensors plain, or hands the call to what can take it, or says what cannot be done."""
    tensors = {"Q": Q, "K": K, "V": V, "attn_mask": attn_mask, "out": options[-1]}
    for name, tensor in tensors.items():
        _check_storage(name, tensor)
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise UnsupportedError(
            "Q: must not be inside a functorch transform (vmap, grad, ...); got one. Call "
            "attention_forward on batched tensors instead: [batch, heads, length, head_dim]."
        )
    needing_grad = [n for n, t in tensors.items() if isinstance(t, Tensor) and t.requires_grad]
    if torch.is_grad_enabled() and needing_grad:
        reason = (
            f"{', '.join(needing_grad)}: must not require grad, as the backward pass does not exist "
            "yet; got requires_grad=True under grad mode. Call under torch.no_grad(), pass "
            ".detach()ed tensors, or set Config(fallback='sdpa') to compute with torch's SDPA, "
            "which is differentiable."
        )
        if core.get_default_config().fallback != "sdpa":
            raise UnsupportedError(reason)
        return fallback.attention_forward(reason, Q, K, V, scale, is_causal, attn_mask, *options)
    if isinstance(Q, Tensor) and torch.is_autocast_enabled(Q.device.type):
        dtype = torch.get_autocast_dtype(Q.device.type)
        Q, K, V = (t.to(dtype) if t.dtype in _LOW_PRECISION else t for t in (Q, K, V))
    Q, K, V, attn_mask = (
        t.resolve_neg() if isinstance(t, Tensor) else t for t in (Q, K, V, attn_mask)
    )
    return run(Q, K, V, scale, is_causal, attn_mask, *options)


def _check_storage(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        return  # the native entry says what it thinks of other objects
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise ValueError(
            f"{name}: must be a dense strided tensor; got layout {tensor.layout}"
            f"{' (nested)' if tensor.is_nested else ''}. Convert it with .to_dense(), or pad it."
        )
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"{name}: must be on a CPU or a CUDA device; got {tensor.device}. "
            f"Move it with {name}.to('cpu')."
        )
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise TypeError(
            f"{name}: must be a plain torch.Tensor; got {type(tensor).__name__}. "
            f"Pass the tensor inside it, or {name}.as_subclass(torch.Tensor)."
        )
