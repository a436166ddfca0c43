"""Calls whose tensors are not plain: the native entry must not read their memory as it is.

The gate in `attention.py` sends here whatever acts between a call and its kernel. Cheap cases are
made plain; the others go through `torch.ops.blackwell_sparsek` (torch_op.py), where torch's
dispatcher knows what to do with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from blackwell_sparsek import attention, torch_op

_OPTIONS = ("is_causal", "attn_mask", "window", "softcap", "block_mask", "return_lse", "out")


def attention_forward(
    run: Callable[..., Any],
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None,
    *options: Any,
) -> Any:
    """Makes the tensors plain, or hands the call to what can take it, or says what cannot be done.

    `run` is the native call; `options` are attention_forward's keyword arguments, in its order.
    """
    attn_mask, out = options[1], options[6]
    tensors = {"Q": Q, "K": K, "V": V, "attn_mask": attn_mask, "out": out}
    if torch.compiler.is_compiling():
        return _through_operator(Q, K, V, scale, options)
    present = tuple(tensor for tensor in tensors.values() if tensor is not None)
    if has_torch_function(present):
        named = dict(zip(_OPTIONS, options, strict=True))
        return handle_torch_function(attention.attention_forward, present, Q, K, V, scale, **named)
    check_storage(tensors, ("cpu", "cuda", "meta"))
    if _needs_dispatcher(present):
        return _through_operator(Q, K, V, scale, options)
    if isinstance(Q, Tensor) and torch.is_autocast_enabled(Q.device.type):
        dtype = torch.get_autocast_dtype(Q.device.type)
        Q, K, V = (
            t.to(dtype) if isinstance(t, Tensor) and t.dtype in torch_op.AUTOCAST_FROM else t
            for t in (Q, K, V)
        )
    if isinstance(out, Tensor) and out.is_neg():
        raise ValueError(
            "out: must not be a lazily negated view (.is_neg()); got one. Pass a tensor of its own."
        )
    Q, K, V, attn_mask = (
        t.resolve_neg() if isinstance(t, Tensor) else t for t in (Q, K, V, attn_mask)
    )
    return run(Q, K, V, scale, options[0], attn_mask, *options[2:])


def _through_operator(
    Q: Tensor, K: Tensor, V: Tensor, scale: float | None, options: tuple[Any, ...]
) -> Any:
    return torch_op.call(attention._native_arguments(Q, K, V, scale, *options))


def _needs_dispatcher(tensors: tuple[Any, ...]) -> bool:
    """True if something of torch's dispatcher acts on the call that only it can do."""
    if (
        torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return True
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue  # the native entry says what it thinks of other objects
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_meta:
            if type(tensor).__name__ == "DTensor":
                from blackwell_sparsek import _dtensor

                _dtensor.register_rules()
            return True
        if torch_op.gradient_wanted(tensor):
            return True
    return False


def check_storage(tensors: dict[str, Any], devices: tuple[str, ...] = ("cpu", "cuda")) -> None:
    """Raises ValueError where a named tensor has no plain strided memory on one of the devices."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue  # the native entry says what it thinks of other objects
        if tensor.layout is not torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else str(tensor.layout)
            raise ValueError(
                f"{name}: must be a dense strided tensor; got a {kind} one. "
                "Convert it with .to_dense(), or pad it."
            )
        if tensor.device.type not in devices:
            raise ValueError(
                f"{name}: must be on a CPU or a CUDA device; got {tensor.device}. "
                f"Move it with {name}.to('cpu')."
            )
