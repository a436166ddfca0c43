"""xFormers: `memory_efficient_attention(q, k, v, attn_bias, op=(SparseKFwOp, SparseKBwOp))`.

Dense, causal, local, additive and block-diagonal biases, paged ones included (their pages are
gathered), and `BlockSparseBias` for a BlockMask. Packed sequences are one call each; their offsets
are on the host already in xFormers' biases. The backward does not exist yet and says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek import attention
from blackwell_sparsek._C import UnsupportedError
from blackwell_sparsek.backends import require_framework
from blackwell_sparsek.block_mask import BlockMask
from blackwell_sparsek.layouts import attention_bshd

__all__ = ["BlockSparseBias", "SparseKBwOp", "SparseKFwOp"]


def _import_fmha() -> Any:
    """xFormers' attention, or MSLK's, from which xFormers' own is to come after 0.0.35."""
    try:
        return importlib.import_module("xformers.ops.fmha")
    except ImportError:
        with contextlib.suppress(ImportError):
            return importlib.import_module("mslk.attention.fmha")
    return require_framework("xformers.ops.fmha", "xformers")


_fmha = _import_fmha()
_bias = _fmha.attn_bias

_NO_BACKWARD = "the backward of BlackwellSparseK does not exist yet"


@dataclasses.dataclass
class BlockSparseBias(_bias.AttentionBias):  # type: ignore[misc, name-defined]
    """A `BlockMask` as an xFormers bias, for `op=(SparseKFwOp, SparseKBwOp)` only.

    Attributes:
        block_mask: which (query block, key block) pairs are computed.
        is_causal: also causal: False, True ("upper_left") or "lower_right".
    """

    block_mask: BlockMask
    is_causal: bool | str = False

    def materialize(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The bias as an additive tensor `[..., q_len, kv_len]`: 0 or -inf. For tests."""
        q_len, kv_len = shape[-2:]
        allowed = self.block_mask.to_dense_mask(q_len, kv_len).to(device)
        if self.is_causal:
            offset = kv_len - q_len if self.is_causal == "lower_right" else 0
            allowed = allowed & torch.ones_like(allowed).tril(offset)
        heads = shape[-3] if len(shape) > 3 else 1
        if allowed.shape[1] not in (1, heads):
            allowed = allowed.repeat_interleave(heads // allowed.shape[1], 1)
        bias = torch.zeros(allowed.shape, dtype=dtype, device=device)
        return bias.masked_fill_(~allowed, -torch.inf).expand(shape)


_Rules = dict[str, Any]


def _nothing(bias: Any) -> _Rules:
    return {}


def _upper_left(bias: Any) -> _Rules:
    return {"is_causal": "upper_left"}


def _lower_right(bias: Any) -> _Rules:
    return {"is_causal": "lower_right"}


def _window(bias: Any) -> _Rules:
    return {"window": (bias.window_left, bias.window_right)}


def _upper_left_local(bias: Any) -> _Rules:
    # Their window counts the query's own key.
    return {"is_causal": "upper_left", "window": (bias._window_size - 1, -1)}


def _lower_right_local(bias: Any) -> _Rules:
    return {"is_causal": "lower_right", "window": (bias._window_size - 1, -1)}


def _block_sparse(bias: Any) -> _Rules:
    return {"block_mask": bias.block_mask, "is_causal": bias.is_causal}


def _additive(bias: Any) -> _Rules:
    return {"attn_mask": bias}


def _upper_left_additive(bias: Any) -> _Rules:
    return {"is_causal": "upper_left", "attn_mask": bias._bias}


# xFormers compares exact types, so every subclass is named.
_DENSE: dict[type, Callable[[Any], _Rules]] = {
    type(None): _nothing,
    Tensor: _additive,
    BlockSparseBias: _block_sparse,
    _bias.LowerTriangularMask: _upper_left,
    _bias.LowerTriangularMaskWithTensorBias: _upper_left_additive,
    _bias.LowerTriangularFromBottomRightMask: _lower_right,
    _bias.LowerTriangularFromBottomRightLocalAttentionMask: _lower_right_local,
    _bias.LocalAttentionFromBottomRightMask: _window,
}
_PACKED: dict[type, Callable[[Any], _Rules]] = {
    _bias.BlockDiagonalMask: _nothing,
    _bias.BlockDiagonalCausalMask: _upper_left,
    _bias.BlockDiagonalCausalFromBottomRightMask: _lower_right,
    _bias.BlockDiagonalCausalLocalAttentionMask: _upper_left_local,
    _bias.BlockDiagonalCausalLocalAttentionFromBottomRightMask: _lower_right_local,
    _bias.BlockDiagonalPaddedKeysMask: _nothing,
    _bias.BlockDiagonalCausalWithOffsetPaddedKeysMask: _lower_right,
    _bias.BlockDiagonalLocalAttentionPaddedKeysMask: _window,
    _bias.BlockDiagonalCausalLocalAttentionPaddedKeysMask: _lower_right_local,
    _bias.BlockDiagonalGappyKeysMask: _nothing,
    _bias.BlockDiagonalCausalWithOffsetGappyKeysMask: _lower_right,
    _bias.PagedBlockDiagonalPaddedKeysMask: _nothing,
    _bias.PagedBlockDiagonalCausalWithOffsetPaddedKeysMask: _lower_right,
    _bias.PagedBlockDiagonalGappyKeysMask: _nothing,
    _bias.PagedBlockDiagonalCausalWithOffsetGappyKeysMask: _lower_right,
}
for _name, _rule in (  # MSLK has them, xFormers 0.0.35 has not
    ("BlockDiagonalLocalAttentionFromBottomRightGappyKeysMask", _window),
    ("PagedBlockDiagonalCausalLocalPaddedKeysMask", _lower_right_local),
):
    if hasattr(_bias, _name):
        _PACKED[getattr(_bias, _name)] = _rule


class SparseKFwOp(_fmha.AttentionFwOpBase):  # type: ignore[misc, name-defined]
    """The forward, as xFormers declares operators."""

    OPERATOR = staticmethod(attention.attention_forward)
    SUPPORTED_DEVICES = {"cpu", "cuda"}  # noqa: RUF012
    CUDA_MINIMUM_COMPUTE_CAPABILITY = (9, 0)
    SUPPORTED_DTYPES = {torch.float32, torch.float16, torch.bfloat16}  # noqa: RUF012
    SUPPORTED_MAX_K = 256
    SUPPORTED_MIN_K = 16
    SUPPORTED_ATTN_BIAS_TYPES = (*_DENSE, *_PACKED)
    SUPPORTS_DROPOUT = False
    SUPPORTS_CUSTOM_SCALE = True
    SUPPORTS_DIFFERENT_VALUE_EMBED = True
    SUPPORTS_BMGHK = True
    IS_DETERMINISTIC = True
    VARLEN_LSE_PACKED = True
    NAME = "blackwell_sparsekF"
    # Weights may be greater than 1 (docs/numerics.md) and are rounded then like the result: 2^-11
    # each. xFormers' own tests of the forward compare with these.
    ERROR_RTOL = {**_fmha.AttentionFwOpBase.ERROR_RTOL, torch.float16: 2**-10}  # noqa: RUF012

    _TEST_K = [64, 128]  # noqa: RUF012

    @classmethod
    def is_available(cls) -> bool:
        return True

    @classmethod
    def shape_not_supported_reasons(cls, Mq: int, Mkv: int, K: int, Kv: int) -> list[str]:
        reasons: list[str] = super().shape_not_supported_reasons(Mq, Mkv, K, Kv)
        if K % 8 or Kv % 8:
            reasons.append("query.shape[-1] % 8 != 0 or value.shape[-1] % 8 != 0")
        return reasons

    @classmethod
    def not_supported_reasons(cls, d: Any) -> list[str]:
        """xFormers' own reasons, less those of its own binary, and ours."""
        reasons = [r for r in super().not_supported_reasons(d) if not _of_their_binary(r, d)]
        if reasons or torch.compiler.is_compiling():  # the call itself will tell what it cannot do
            return reasons
        return _own_reasons(d)

    @classmethod
    def apply(cls, inp: Any, needs_gradient: bool) -> tuple[Tensor, Any]:
        """(out in the layout of the query, Context with the LSE where it is wanted)."""
        reasons = cls.not_supported_reasons(inp)
        if reasons:
            raise UnsupportedError(f"query: {cls.NAME} cannot take this: {'; '.join(reasons)}.")
        query, key, value = _as_bmhk(inp)
        rule = _DENSE.get(type(inp.attn_bias))
        if rule is not None:
            rules = rule(inp.attn_bias)
            mask = rules.get("attn_mask")
            if mask is not None and mask.dim() == 5:  # [batch, groups, heads, q_len, kv_len]
                rules["attn_mask"] = mask.flatten(1, 2)
            out, lse = attention_bshd(query, key, value, inp.scale_float, return_lse=True, **rules)
        else:
            out, lse = _packed(query, key, value, inp)
        if inp.query.ndim == 5:
            groups, heads = inp.query.shape[2:4]
            out, lse = out.unflatten(2, (groups, heads)), lse.unflatten(1, (groups, heads))
        return out, _fmha.Context(out=out, lse=lse) if needs_gradient else None


class SparseKBwOp(_fmha.AttentionBwOpBase):  # type: ignore[misc, name-defined]
    """Stands for the backward, which does not exist: it supports nothing, and says why."""

    OPERATOR = None
    SUPPORTED_DEVICES = SparseKFwOp.SUPPORTED_DEVICES
    SUPPORTED_DTYPES = SparseKFwOp.SUPPORTED_DTYPES
    SUPPORTED_MAX_K = SparseKFwOp.SUPPORTED_MAX_K
    SUPPORTED_MIN_K = SparseKFwOp.SUPPORTED_MIN_K
    SUPPORTED_ATTN_BIAS_TYPES = SparseKFwOp.SUPPORTED_ATTN_BIAS_TYPES
    SUPPORTS_DROPOUT = False
    SUPPORTS_CUSTOM_SCALE = True
    VARLEN_LSE_PACKED = True
    NAME = "blackwell_sparsekB"

    @classmethod
    def is_available(cls) -> bool:
        return False

    @classmethod
    def not_supported_reasons(cls, d: Any) -> list[str]:
        return [_NO_BACKWARD]

    @classmethod
    def apply(cls, ctx: Any, inp: Any, grad: Tensor) -> Any:
        raise UnsupportedError(
            f"query: must not require a gradient, as {_NO_BACKWARD}; got requires_grad=True. "
            "Call under torch.no_grad(), or pass another backward: op=(SparseKFwOp, <BwOp>)."
        )


def _of_their_binary(reason: str, d: Any) -> bool:
    """Reasons that speak of xFormers' kernels, which we do not use."""
    if reason == "xFormers wasn't build with CUDA support":
        return True
    return reason.startswith("bf16 is only supported on A100") and d.query.device.type == "cpu"


def _own_reasons(d: Any) -> list[str]:
    """What our rules and kernels say of the tensors, lengths and additive masks apart."""
    try:
        query, key, value = (t.detach().transpose(1, 2) for t in _as_bmhk(d))
        attention.plan(query, key, value, d.scale_float)
    except (ValueError, TypeError, UnsupportedError) as error:
        return [str(error)]
    return []


def _as_bmhk(d: Any) -> tuple[Tensor, Tensor, Tensor]:
    """[batch, length, heads, head_dim]; key heads that are expanded views are taken once."""
    query, key, value = d.query, d.key, d.value
    if query.ndim == 3:
        return query.unsqueeze(2), key.unsqueeze(2), value.unsqueeze(2)
    if query.ndim == 4:
        return query, key, value
    if key.shape[3] > 0 and _expanded(key) and _expanded(value):
        return query.flatten(2, 3), key.select(3, 0), value.select(3, 0)
    return query.flatten(2, 3), key.flatten(2, 3), value.flatten(2, 3)


def _expanded(tensor: Tensor) -> bool:
    return tensor.stride(3) == 0 or tensor.shape[3] == 1


def _packed(query: Tensor, key: Tensor, value: Tensor, inp: Any) -> tuple[Tensor, Tensor]:
    """Each sequence by itself: queries and keys lie in [1, tokens, heads, head_dim]."""
    rules = _PACKED[type(inp.attn_bias)](inp.attn_bias)
    out = query.new_zeros((*query.shape[:3], value.shape[3]))
    lse = query.new_full((1, query.shape[2], query.shape[1]), -torch.inf, dtype=torch.float32)
    intervals = list(inp.attn_bias.q_seqinfo.intervals())
    _check_tokens("query", query, intervals[-1][1] if intervals else 0)
    pairs = zip(intervals, _keys_and_values(key, value, inp.attn_bias), strict=True)
    for (first, last), (keys, values) in pairs:
        if first == last:
            continue
        _, lse[:, :, first:last] = attention_bshd(
            query[:, first:last],
            keys,
            values,
            inp.scale_float,
            return_lse=True,
            out=out[:, first:last],
            **rules,
        )
    return out, lse


def _keys_and_values(key: Tensor, value: Tensor, bias: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The keys and values of each sequence; those of a paged bias are gathered."""
    info = bias.k_seqinfo
    if not hasattr(bias, "block_tables"):
        for first, last in info.intervals():
            _check_tokens("key", key, last)
            yield key[:, first:last], value[:, first:last]
        return
    size = bias.page_size
    pages = [t.view(-1, size, *t.shape[2:]) for t in (key[0:1], value[0:1])]
    gappy = isinstance(bias, _bias.PagedBlockDiagonalGappyKeysMask)
    for i, end in enumerate(info.seqlen_py):  # of a gappy one: the end within its own pages
        first = info.seqstart_py[i] if gappy else 0
        table = bias.block_tables[i, : -(-end // size)].long()
        keys, values = (t[table].flatten(0, 1)[None, first:end] for t in pages)
        yield keys, values


def _check_tokens(name: str, tensor: Tensor, needed: int) -> None:
    if tensor.shape[1] < needed:
        raise ValueError(
            f"{name}: must have the {needed} tokens that attn_bias counts; got {tensor.shape[1]}. "
            "Make the bias of this tensor's lengths."
        )
