"""`torch.ops.blackwell_sparsek.*`: the attention call as operators of torch's dispatcher.

The second door. Eager calls on plain tensors go straight to the native entry; whatever acts
between a call and its kernel (compilation, export, FakeTensor, autocast, vmap, dispatch modes,
subclasses, gradients) acts on these operators. Four schemas with the same arguments, because a
schema fixes what is returned and what is written:

    attention_forward(...) -> Tensor              attention_forward_out(out!, ...) -> ()
    attention_forward_lse(...) -> (Tensor, lse)   attention_forward_lse_out(out!, ...) -> lse

A BlockMask travels as its block sizes and its lists. `causal` is 0 (none), 1 (upper-left) or 2
(lower-right), a window side of -1 is unbounded, a softcap of 0 is none.

A graph that torch.compile makes calls `attention_forward_dense` where that says it all: gradients
were looked for while tracing, and torch's dispatcher takes its time over each argument.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext
from torch.autograd import forward_ad

from blackwell_sparsek import _C, core, fallback
from blackwell_sparsek.block_mask import BlockMask

__all__ = ["ALLOCATES_NATIVELY", "AUTOCAST_FROM", "call", "gradient_wanted"]

NAMESPACE = "blackwell_sparsek"

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, float? scale=None, int causal=0, SymInt window_left=-1, "
    "SymInt window_right=-1, float softcap=0., Tensor? attn_mask=None, int block_q=0, "
    "int block_k=0, Tensor? full_counts=None, Tensor? full_indices=None, "
    "Tensor? partial_counts=None, Tensor? partial_indices=None, Tensor? partial_bits=None"
)
_DEFAULTS = (None, None, None, None, 0, -1, -1, 0.0, None, 0, 0, None, None, None, None, None)
_SCHEMAS = {
    "attention_forward": f"({_ARGUMENTS}) -> Tensor",
    "attention_forward_lse": f"({_ARGUMENTS}) -> (Tensor, Tensor)",
    "attention_forward_out": f"(Tensor(a!) out, {_ARGUMENTS}) -> ()",
    "attention_forward_lse_out": f"(Tensor(a!) out, {_ARGUMENTS}) -> Tensor",
}
_DENSE = "attention_forward_dense"
_DENSE_ARGUMENTS = 5  # Q, K, V, scale and causal
_DENSE_SCHEMA = "(Tensor q, Tensor k, Tensor v, float? scale, int causal) -> Tensor"
_CAUSAL: tuple[bool | str, ...] = (False, "upper_left", "lower_right")
AUTOCAST_FROM = (torch.float32, torch.float16, torch.bfloat16)


def call(native_arguments: tuple[Any, ...]) -> Any:
    """The operator for a call, given what `_C.attention_forward` would be given."""
    q, k, v, scale, causal, left, right, softcap, attn_mask, lists, return_lse, out = (
        native_arguments[:12]
    )
    arguments = (q, k, v, scale, causal, left, right, softcap, attn_mask, *(lists or ()))
    operators = torch.ops.blackwell_sparsek
    if out is None:
        if return_lse:
            return operators.attention_forward_lse.default(*arguments)
        return operators.attention_forward.default(*arguments)
    if return_lse:
        return out, operators.attention_forward_lse_out.default(out, *arguments)
    operators.attention_forward_out.default(out, *arguments)
    return out


def gradient_wanted(tensor: object) -> bool:
    """True if a derivative through `tensor` would be asked for: backward or forward mode."""
    if not isinstance(tensor, Tensor):
        return False
    if torch.is_grad_enabled() and tensor.requires_grad:
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


# ---- one kernel per dispatch key, for all four operators -----------------------------------------


class _Operator:
    """One of the four operators: which arguments it has and what it returns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_out = name.endswith("_out")
        self.has_lse = "_lse" in name

    @property
    def overload(self) -> Any:
        return getattr(torch.ops.blackwell_sparsek, self.name).default

    def split(self, args: tuple[Any, ...]) -> tuple[Tensor | None, tuple[Any, ...]]:
        """(`out`, the sixteen arguments); the dispatcher leaves off trailing defaults."""
        out, args = (args[0], args[1:]) if self.has_out else (None, args)
        return out, args + _DEFAULTS[len(args) :]

    def pack(self, result: Any) -> Any:
        """The result of a functional call, as this operator returns it."""
        if not self.has_out:
            return result
        return result[1] if self.has_lse else None

    # -- CPU and CUDA: the native entry
    def compute(self, *args: Any) -> Any:
        out, arguments = self.split(args)
        q, _, v, *_ = arguments
        lists = arguments[9:] if arguments[11] is not None else None
        result, lse = out, None
        if not ALLOCATES_NATIVELY:
            result = new_result(q, v) if out is None else out
            lse = q.new_empty(q.shape[:3], dtype=torch.float32) if self.has_lse else None
        config = core.config_in_force or core.get_default_config()
        try:
            return self.pack(_C.attention_forward(*arguments[:9], lists, self.has_lse, result, lse))
        except _C.UnsupportedError as error:
            if config.fallback != "sdpa":
                raise
            reason = str(error)
        computed = self.by_torch(reason, out, arguments)
        if out is None:  # in the layout that `fake` promised
            attended = new_result(q, v).copy_(computed[0] if self.has_lse else computed)
            computed = (attended, computed[1]) if self.has_lse else attended
        return self.pack(computed)

    def check(self, out: Tensor | None, arguments: tuple[Any, ...]) -> None:
        """Raises where a call breaks a rule; tensors that cannot be read are left to torch."""
        tensors = [t for t in (out, *arguments) if isinstance(t, Tensor)]
        if not all(_is_readable(tensor) for tensor in tensors):
            return
        q, k, v, *options = (t.detach() if isinstance(t, Tensor) else t for t in arguments[:9])
        lists = arguments[9:] if arguments[11] is not None else None
        if out is not None:
            out = out.detach()
        elif not ALLOCATES_NATIVELY and q.dim() == v.dim() == 4:
            out = new_result(q, v)
        with contextlib.suppress(_C.UnsupportedError):  # that is what a fall-back is for
            _C.plan(q, k, v, *options, lists, False, out)

    def by_torch(self, reason: str, out: Tensor | None, arguments: tuple[Any, ...]) -> Any:
        q, k, v, scale, causal, left, right, softcap, attn_mask = arguments[:9]
        block_mask = None if arguments[11] is None else _block_mask(arguments)
        window = None if left < 0 and right < 0 else (left, right)
        options = (_CAUSAL[causal], attn_mask, window, softcap or None, block_mask)
        return fallback.attention_forward(reason, q, k, v, scale, *options, self.has_lse, out)

    # -- Meta and FakeTensor: shapes, dtypes and strides, without reading memory
    def fake(self, *args: Any) -> Any:
        out, arguments = self.split(args)
        q, k, v = arguments[:3]
        for name, tensor in (("Q", q), ("K", k), ("V", v)):
            if tensor.dim() != 4:
                raise ValueError(
                    f"{name}: must have 4 dimensions [batch, heads, length, head_dim]; got "
                    f"{tensor.dim()}. Insert dimensions of size 1 with unsqueeze."
                )
        for name, tensor in (("K", k), ("V", v), ("attn_mask", arguments[8]), ("out", out)):
            if tensor is not None and tensor.device != q.device:
                remedy = f"Move it there with {name}.to(Q.device)."
                if tensor is out:
                    remedy = "Leave `out` away, and a tensor that fits is made."
                raise ValueError(
                    f"{name}: must be on Q's device, {q.device}; got {tensor.device}. {remedy}"
                )
        result = new_result(q, v)
        lse = q.new_empty((q.shape[0], q.shape[1], q.shape[2]), dtype=torch.float32)
        return self.pack((result, lse) if self.has_lse else result)

    # -- Autograd: no backward yet; says so, or composes torch's differentiable operations
    def autograd(self, keyset: Any, *args: Any) -> Any:
        out, arguments = self.split(args)
        tensors = {"out": out, **dict(zip(_TENSOR_NAMES, arguments[:3], strict=True))}
        tensors["attn_mask"] = arguments[8]
        wanting = [name for name, tensor in tensors.items() if gradient_wanted(tensor)]
        if wanting:
            reason = (
                f"{', '.join(wanting)}: must not require a gradient, as no derivative of this call "
                "exists yet; got requires_grad=True under grad mode (or a forward-mode tangent). "
                "Call under torch.no_grad(), pass .detach()ed tensors, or set "
                "Config(fallback='sdpa') to compute with torch's SDPA, which is differentiable."
            )
            if core.get_default_config().fallback != "sdpa":
                raise _C.UnsupportedError(reason)
            self.check(out, arguments)
            return self.pack(self.by_torch(reason, out, arguments))
        with torch._C._AutoDispatchBelowAutograd():
            if (
                self.name == "attention_forward"
                and arguments[_DENSE_ARGUMENTS:] == _DEFAULTS[_DENSE_ARGUMENTS:]
                and TracingContext.try_get() is not None
            ):
                dense = torch.ops.blackwell_sparsek.attention_forward_dense
                return dense.default(*arguments[:_DENSE_ARGUMENTS])
            result = self.overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)
        if out is not None:
            torch.autograd.graph.increment_version(out)
        return result

    # -- Autocast: Q, K and V to the dtype in force; masks stay as they are
    def autocast(self, device_type: str) -> Callable[..., Any]:
        key = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}
        keys = torch._C.DispatchKeySet(key[device_type])

        def cast(*args: Any) -> Any:
            dtype = torch.get_autocast_dtype(device_type)
            first = 1 if self.has_out else 0
            qkv = [t.to(dtype) if t.dtype in AUTOCAST_FROM else t for t in args[first : first + 3]]
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return self.overload(*args[:first], *qkv, *args[first + 3 :])

        return cast

    # -- functorch's vmap: its dimension joins the batch
    def vmap(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        size = info.batch_size
        if self.has_out:
            out, out_dim = args[0], in_dims[0]
            if out_dim is None:
                raise ValueError(
                    "out: must have the vmapped dimension, as the inputs have; got a tensor "
                    "without it. Leave `out` away under vmap."
                )
            functional = _OPERATORS[self.name.removesuffix("_out")]
            result, _ = functional.vmap(info, in_dims[1:], *args[1:])
            out.movedim(out_dim, 0).copy_(result[0] if self.has_lse else result)
            return (result[1], 0) if self.has_lse else (None, None)
        _, arguments = self.split(args)
        dims = in_dims + (None,) * (len(arguments) - len(in_dims))
        batch = _batch_under_vmap(arguments, dims)
        folded = [
            _fold(tensor, dim, size, batch, 4 if position == 8 else None, always=position < 3)
            for position, (tensor, dim) in enumerate(zip(arguments, dims, strict=True))
        ]
        result = self.overload(*folded)
        if self.has_lse:
            return tuple(t.unflatten(0, (size, batch)) for t in result), (0, 0)
        return result.unflatten(0, (size, batch)), 0


_TENSOR_NAMES = ("Q", "K", "V")
# torch gained DLPack's C exchange API after 2.10; without it the results are allocated here.
ALLOCATES_NATIVELY = hasattr(Tensor, "__dlpack_c_exchange_api__")


def _is_readable(tensor: Tensor) -> bool:
    """Whether the native entry can read it: neither a subclass, nor wrapped, nor without memory."""
    is_plain = type(tensor) in (Tensor, torch.nn.Parameter)
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return is_plain and not is_wrapped and tensor.device.type in ("cpu", "cuda")


def _block_mask(arguments: tuple[Any, ...]) -> BlockMask:
    block_q, block_k, *lists = arguments[9:]
    kv_len = arguments[1].shape[2]
    return BlockMask(*lists, block_size=(block_q, block_k), kv_blocks=-(-kv_len // block_k))


def memory_order(q: Tensor) -> list[int]:
    """Batch, heads and length, the outermost in memory first."""
    order, strides = [0, 1, 2], q.stride()
    for i in (1, 0, 1):
        outer, inner = strides[order[i]], strides[order[i + 1]]
        if _known(outer > 0) and _known(outer < inner):  # a stride of 0 tells nothing
            order[i], order[i + 1] = order[i + 1], order[i]
    return order


def new_result(q: Tensor, v: Tensor) -> Tensor:
    """An empty result: dense, its dimensions in the order that Q's have in memory.

    The native side allocates the same (bindings/call.cc, `lay_out_result`).
    """
    order = memory_order(q)
    result_strides, stride = [1, 1, 1, 1], v.shape[3]
    for dim in reversed(order):
        result_strides[dim] = stride
        stride = stride * torch.sym_max(q.shape[dim], 1)
    return q.new_empty_strided((*q.shape[:3], v.shape[3]), result_strides)


def _known(condition: Any) -> bool:
    """Whether a condition on sizes holds; False where torch cannot tell before they are there."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return bool(guard_or_false(condition))


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: int) -> Any:
    """`attention_forward_dense` on the CPU and CUDA."""
    if ALLOCATES_NATIVELY:
        try:
            arguments = (q, k, v, scale, causal, -1, -1, 0.0, None, None, False, None)
            return _C.attention_forward(*arguments)
        except _C.UnsupportedError:
            pass  # what then is to be done is known below
    return _OPERATORS["attention_forward"].compute(q, k, v, scale, causal)


def _batch_under_vmap(arguments: tuple[Any, ...], dims: tuple[int | None, ...]) -> int:
    q, dim = arguments[0], dims[0]
    return int(q.shape[0]) if dim is None else int(q.movedim(dim, 0).shape[1])


def _fold(
    tensor: Any, dim: int | None, size: int, batch: int, rank: int | None, *, always: bool
) -> Any:
    """[..., size at dim, ...] -> [size * batch, ...]; what depends on neither stays as it is."""
    if not isinstance(tensor, Tensor):
        return tensor
    if dim is not None:
        tensor = tensor.movedim(dim, 0)
    if rank is not None:  # attn_mask broadcasts from the right
        while tensor.dim() - (dim is not None) < rank:
            tensor = tensor.unsqueeze(0 if dim is None else 1)
    if dim is None:
        if not always and tensor.shape[0] == 1:
            return tensor
        tensor = tensor.unsqueeze(0).expand(size, *tensor.shape)
    if not always:
        tensor = tensor.expand(size, batch, *tensor.shape[2:])
    return tensor.flatten(0, 1)


def _register() -> tuple[torch.library.Library, dict[str, _Operator]]:
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    operators = {name: _Operator(name) for name in _SCHEMAS}
    # The result's strides follow from Q's: compiled code must pass what was traced.
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
    for name, operator in operators.items():
        library.define(name + _SCHEMAS[name], tags=tags)
        for key in ("CPU", "CUDA"):
            library.impl(name, operator.compute, key)
        library.impl(name, operator.autograd, "Autograd", with_keyset=True)
        library.impl(name, operator.autocast("cpu"), "AutocastCPU")
        library.impl(name, operator.autocast("cuda"), "AutocastCUDA")
        torch.library.register_fake(f"{NAMESPACE}::{name}", operator.fake, lib=library)
        torch.library.register_vmap(f"{NAMESPACE}::{name}", operator.vmap, lib=library)
    library.define(_DENSE + _DENSE_SCHEMA, tags=tags)
    for key in ("CPU", "CUDA"):
        library.impl(_DENSE, _dense, key)
    library.impl(_DENSE, torch.library.fallthrough_kernel, "Autograd")
    fake = operators["attention_forward"].fake
    torch.library.register_fake(f"{NAMESPACE}::{_DENSE}", fake, lib=library)
    return library, operators


_LIBRARY, _OPERATORS = _register()


# ---- BlockMask as a pytree: an argument of exported programs and of vmap -------------------------

_LISTS = ("full_counts", "full_indices", "partial_counts", "partial_indices", "partial_bits")
_Context = tuple[tuple[int, int], int | None, int | None, int]


def _flatten(mask: BlockMask) -> tuple[list[Any], _Context]:
    present = [tensor for tensor in mask._tensors() if tensor is not None]
    return present, (mask.block_size, mask.q_len, mask.kv_len, mask.kv_blocks)


def _flatten_with_keys(mask: BlockMask) -> tuple[list[tuple[Any, Any]], _Context]:
    leaves, context = _flatten(mask)
    keys = [torch.utils._pytree.GetAttrKey(name) for name in _LISTS]
    return list(zip(keys, leaves, strict=False)), context


def _unflatten(leaves: Any, context: _Context) -> BlockMask:
    # Not through __init__: torch also unflattens with things that are no tensors (dynamic shapes).
    return BlockMask._of_lists(tuple(leaves), *context)


def _to_dumpable(context: _Context) -> list[Any]:
    return [list(context[0]), *context[1:]]


def _from_dumpable(dumped: list[Any]) -> _Context:
    block_size, q_len, kv_len, kv_blocks = dumped
    return (block_size[0], block_size[1]), q_len, kv_len, kv_blocks


torch.serialization.add_safe_globals([BlockMask])
torch.utils._pytree.register_pytree_node(
    BlockMask,
    _flatten,
    _unflatten,
    serialized_type_name="blackwell_sparsek.BlockMask",
    to_dumpable_context=_to_dumpable,
    from_dumpable_context=_from_dumpable,
    flatten_with_keys_fn=_flatten_with_keys,
)
