"""The rules that a block mask's arguments must keep, as one-line checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._block_lists import ceil_div, problem

BLOCK_Q_SIZES = (64, 128)
BLOCK_K_SIZES = (16, 32, 64, 128)

BlockSize = int | Sequence[int]


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def checked_int(argument: str, value: object, least: int, why: str = "") -> int:
    """`value` if it is an int >= least."""
    if not is_integer(value):
        raise TypeError(
            problem(
                argument,
                "must be an int",
                f"{type(value).__name__} {value!r}",
                "Pass a Python int; a tensor's value would have to be read back from the device.",
            )
        )
    assert isinstance(value, int)
    if value < least:
        remedy = why or f"Pass a number >= {least}."
        raise ValueError(problem(argument, f"must be >= {least}", value, remedy))
    return value


def checked_fraction(argument: str, value: object) -> float:
    """`value` as a float if it is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            problem(
                argument,
                "must be a number in [0, 1]",
                f"{type(value).__name__} {value!r}",
                "Pass a Python float.",
            )
        )
    if math.isnan(value) or not 0.0 <= value <= 1.0:
        raise ValueError(
            problem(argument, "must lie in [0, 1]", value, "Pass a fraction, not a percentage.")
        )
    return float(value)


def checked_block_size(block_size: BlockSize) -> tuple[int, int]:
    """(block_q, block_k) of an int or a pair."""
    if type(block_size) is int and block_size in BLOCK_Q_SIZES:
        return block_size, block_size
    remedy = f"block_q is one of {BLOCK_Q_SIZES} queries and block_k one of {BLOCK_K_SIZES} keys."
    if isinstance(block_size, Sequence) and not isinstance(block_size, str):
        pair = tuple(block_size)
    else:
        pair = (block_size, block_size)
    if len(pair) != 2 or not all(is_integer(size) for size in pair):
        rule = "must be an int or a pair of ints (block_q, block_k)"
        raise TypeError(problem("block_size", rule, repr(block_size), remedy))
    block_q, block_k = pair
    if block_q not in BLOCK_Q_SIZES or block_k not in BLOCK_K_SIZES:
        rule = f"must be in {BLOCK_Q_SIZES} x {BLOCK_K_SIZES}"
        raise ValueError(problem("block_size", rule, pair, remedy))
    return block_q, block_k


def checked_tensor(argument: str, value: object, dtypes: tuple[torch.dtype, ...] = ()) -> Tensor:
    """`value` if it is a tensor of one of the dtypes (any, where none are given)."""
    if not isinstance(value, Tensor):
        raise TypeError(
            problem(
                argument,
                "must be a torch.Tensor",
                type(value).__name__,
                "Make it with torch.as_tensor on the device of Q.",
            )
        )
    if dtypes and value.dtype not in dtypes:
        wanted = " or ".join(str(dtype) for dtype in dtypes)
        remedy = f"Convert it with .to({dtypes[0]})."
        if dtypes == (torch.bool,):
            remedy = "Compare (mask != 0, scores > threshold) to get a bool mask."
        raise TypeError(problem(argument, f"must have dtype {wanted}", value.dtype, remedy))
    return value


def checked_lengths(
    block_size: tuple[int, int],
    q_blocks: int,
    kv_blocks: int,
    q_len: int | None,
    kv_len: int | None,
    argument: str,
) -> None:
    """Whether the numbers of blocks are those of the lengths, where lengths are given."""
    for name, length, size, blocks, what in (
        ("q_len", q_len, block_size[0], q_blocks, "query"),
        ("kv_len", kv_len, block_size[1], kv_blocks, "key"),
    ):
        if length is None:
            continue
        checked_int(name, length, 0)
        expected = ceil_div(length, size)
        if blocks != expected:
            rule = f"must hold ceil({name} / block) = ceil({length} / {size}) = {expected}"
            remedy = f"Make the mask for {name}={length}, or correct block_size or {name}."
            raise ValueError(problem(argument, f"{rule} {what} blocks", f"{blocks} blocks", remedy))


def checked_rank4(argument: str, tensor: Tensor, last: str) -> Tensor:
    """The tensor as [batch, heads, q_blocks, last]; [q_blocks, last] means batch = heads = 1."""
    if tensor.dim() == 2:
        return tensor[None, None]
    if tensor.dim() != 4:
        raise ValueError(
            problem(
                argument,
                f"must be [batch, heads, q_blocks, {last}] or [q_blocks, {last}]",
                f"shape {tuple(tensor.shape)}",
                "Insert dimensions of size 1 for what the mask does not depend on.",
            )
        )
    return tensor


def checked_same_device(first_name: str, first: Tensor, name: str, tensor: Tensor) -> None:
    if first.device != tensor.device:
        raise ValueError(
            problem(
                name,
                f"must be on the device of {first_name} ({first.device})",
                tensor.device,
                f"Move it with .to({str(first.device)!r}).",
            )
        )
