"""`attention_forward`: the call, its arguments and the gate in front of the native entry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from blackwell_sparsek import _C, core, dispatch, fallback
from blackwell_sparsek.block_mask import BlockMask
from blackwell_sparsek.torch_op import ALLOCATES_NATIVELY, new_result

__all__ = ["attention_forward", "plan"]

_CAUSAL = {"upper_left": 1, "lower_right": 2}


def attention_forward(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None = None,
    *,
    is_causal: bool | str = False,
    attn_mask: Tensor | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    block_mask: BlockMask | None = None,
    return_lse: bool = False,
    out: Tensor | None = None,
) -> Any:
    """Exact attention: `softmax(scale * Q @ K^T) @ V`, with masks, in one kernel.

    The scores are scaled, capped (`softcap`), added to (`attn_mask`, additive); then every boolean
    rule (causal, window, bool `attn_mask`, `block_mask`) removes pairs. A query that may attend to
    nothing gets zeros, and an LSE of -inf. The same input gives the same bits, whatever shares the
    batch. Runs on the current stream of the tensors' device without host synchronisation.

    Args:
        Q: `[batch, q_heads, q_len, head_dim]`; float32, float16 or bfloat16 on the CPU, float16 or
            bfloat16 on a GPU. head_dim is 16 to 256 in steps of 8. Any strides with unit stride in
            head_dim.
        K: `[batch, kv_heads, kv_len, head_dim]`; kv_heads divides q_heads (grouped-query attention).
        V: `[batch, kv_heads, kv_len, v_head_dim]`.
        scale: factor of the scores; default `1 / sqrt(head_dim)`.
        is_causal: False; True or `"upper_left"`: query i sees keys `j <= i` (torch's SDPA);
            `"lower_right"`: `j <= i + kv_len - q_len` (FlashAttention's).
        attn_mask: bool (True = may attend) or float (added to the scores), broadcastable to
            `[batch, q_heads, q_len, kv_len]`; never materialised.
        window: `(left, right)` keys around the diagonal that stay visible, -1 = unbounded; the
            diagonal is the causal one in force, lower-right without `is_causal`.
        softcap: scores become `softcap * tanh(scores / softcap)` (Gemma 2, arXiv 2408.00118).
        block_mask: which (query block, key block) pairs are computed: a `BlockMask`.
        return_lse: also return the logarithm of each row's sum of exponentials.
        out: write the result here: `[batch, q_heads, q_len, v_head_dim]`, Q's dtype and device,
            apart from the inputs in memory.

    Returns:
        `[batch, q_heads, q_len, v_head_dim]` in Q's dtype, dense, its dimensions in memory in the
        order of Q's (so `.transpose(1, 2)` undoes one of Q without a copy), or `out`; with
        `return_lse` a pair of it and `[batch, q_heads, q_len]` float32 (natural logarithm).

    Raises:
        ValueError, TypeError: a broken rule, with the argument, the value got and the remedy.
        UnsupportedError: no kernel of this build takes the problem, or gradients are asked for,
            which no kernel computes yet; `Config(fallback='sdpa')` computes both with torch.
    """
    # From CPython 3.12 on most calls do not come here: see `answer_calls` in prepared.py.
    if not _is_compiling():
        result = _attention_forward_eager(
            Q, K, V, scale, is_causal, attn_mask, window, softcap, block_mask, return_lse, out
        )
        if result is not NotImplemented:
            return result
    options = (is_causal, attn_mask, window, softcap, block_mask, return_lse, out)
    return dispatch.attention_forward(_run, Q, K, V, scale, *options)


def plan(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None = None,
    *,
    is_causal: bool | str = False,
    attn_mask: Tensor | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    block_mask: BlockMask | None = None,
    return_lse: bool = False,
    out: Tensor | None = None,
) -> str:
    """What `attention_forward` with the same arguments would run, as one line. Computes nothing.

    Raises:
        As `attention_forward`.
    """
    options = (is_causal, attn_mask, window, softcap, block_mask, return_lse, out)
    return _C.plan(*_native_arguments(Q, K, V, scale, *options))[1]


def _run(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None,
    is_causal: bool | str,
    attn_mask: Tensor | None,
    window: tuple[int, int] | None,
    softcap: float | None,
    block_mask: BlockMask | None,
    return_lse: bool,
    out: Tensor | None,
) -> Any:
    """The native call, for plain tensors; torch's SDPA where no kernel takes it and the user said so."""
    options = (is_causal, attn_mask, window, softcap, block_mask, return_lse, out)
    arguments = _native_arguments(Q, K, V, scale, *options)
    config = core.config_in_force or core.get_default_config()
    try:
        if config.enable_profiling:
            with torch.profiler.record_function("blackwell_sparsek::attention_forward"):
                result = _C.attention_forward(*arguments)
        else:
            result = _C.attention_forward(*arguments)
        if isinstance(out, Tensor):
            _increment_version(out)
        return result
    except ValueError:
        # A tensor that could not be read: torch knows more of it than what it exports.
        dispatch.check_storage({"Q": Q, "K": K, "V": V, "attn_mask": attn_mask, "out": out})
        raise
    except _C.UnsupportedError as error:
        if config.fallback != "sdpa":
            raise
        reason = str(error)
    return fallback.attention_forward(reason, Q, K, V, scale, *options)


def _native_arguments(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    scale: float | None,
    is_causal: bool | str,
    attn_mask: Tensor | None,
    window: tuple[int, int] | None,
    softcap: float | None,
    block_mask: BlockMask | None,
    return_lse: bool,
    out: Tensor | None,
) -> tuple[Any, ...]:
    causal = 0 if is_causal is False else 1 if is_causal is True else _causal_code(is_causal)
    left, right = (-1, -1) if window is None else _window_pair(window)
    lists = None if block_mask is None else _block_lists(block_mask, Q, K)
    cap = 0.0 if softcap is None else softcap
    if return_lse is not True and return_lse is not False:
        raise TypeError(
            f"return_lse: must be True or False; got {return_lse!r}. Pass return_lse=True for the LSE."
        )
    if out is None and not ALLOCATES_NATIVELY and isinstance(Q, Tensor) and Q.dim() == V.dim() == 4:
        out = new_result(Q, V)
    lse = None
    if return_lse and not ALLOCATES_NATIVELY and isinstance(Q, Tensor) and Q.dim() == 4:
        lse = Q.new_empty(Q.shape[:3], dtype=torch.float32)
    return (Q, K, V, scale, causal, left, right, cap, attn_mask, lists, return_lse, out, lse)


def _causal_code(is_causal: object) -> int:
    if isinstance(is_causal, str) and is_causal in _CAUSAL:
        return _CAUSAL[is_causal]
    kind = ValueError if isinstance(is_causal, str) else TypeError
    raise kind(
        "is_causal: must be False, True, 'upper_left' (as True) or 'lower_right'; "
        f"got {is_causal!r}. Pass 'lower_right' for FlashAttention's alignment."
    )


def _window_pair(window: object) -> tuple[int, int]:
    remedy = "Pass (left, right), -1 for unbounded, or None for no window."
    if not isinstance(window, tuple | list):
        raise TypeError(
            f"window: must be a pair (left, right) of ints or None; got {window!r}. {remedy}"
        )
    if len(window) != 2:
        raise ValueError(f"window: must have two entries, (left, right); got {window!r}. {remedy}")
    for side in window:
        if isinstance(side, bool) or not isinstance(side, int):
            raise TypeError(f"window: must hold ints; got {window!r}. {remedy}")
    # Longer than any sequence is unbounded in effect, and keeps the native side's sums in range.
    left, right = (max(-_LONGEST, min(side, _LONGEST)) for side in window)
    return left, right


_LONGEST = 2**40


def _block_lists(block_mask: object, Q: Tensor, K: Tensor) -> tuple[Any, ...]:
    if isinstance(block_mask, BlockMask):
        q_shape: tuple[int, ...] = getattr(Q, "shape", ())
        k_shape: tuple[int, ...] = getattr(K, "shape", ())
        if len(q_shape) != 4 or len(k_shape) != 4:
            return ()  # the native entry refuses Q or K before it comes to the mask
        return block_mask._native(q_shape[2], k_shape[2])
    raise TypeError(
        f"block_mask: must be a blackwell_sparsek.BlockMask or None; got {type(block_mask).__name__}. "
        "Build one with BlockMask.from_dense, from_indices, from_bsr or from_flex."
    )


_attention_forward_eager = _C.attention_forward_eager
# torch.compile's alone: what runs under torch.export's without it is under a mode as well.
_is_compiling = torch.compiler.is_dynamo_compiling
_increment_version = torch.autograd.graph.increment_version

# What torch's dispatcher would act on: the native entry goes around it, so such calls take `dispatch`.
_C.set_gate(
    (Tensor, torch.nn.Parameter),
    (
        torch._C._is_torch_function_mode_enabled,
        torch._C._len_torch_dispatch_stack,
        torch._C._functorch.peek_interpreter_stack,
        torch._C._is_tracing,
    ),
    forward_ad,
    torch._C._is_any_autocast_enabled,
    torch.is_grad_enabled,
    torch._C.TensorBase.requires_grad,
    torch.empty(0).is_neg,
    torch._C._increment_version,
)


def _device_properties(index: int) -> tuple[str, int, int, int]:
    """What the native side asks about a GPU: name, capability, multiprocessors, shared bytes."""
    properties = torch.cuda.get_device_properties(index)
    return (
        properties.name,
        properties.major * 10 + properties.minor,
        properties.multi_processor_count,
        int(getattr(properties, "shared_memory_per_block_optin", 0)),  # not in torch's stubs
    )


def _current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


def set_sources() -> None:
    """Tells the native side whom to ask about torch."""
    _C.set_sources(torch.get_num_threads, _device_properties, _current_stream)


set_sources()
