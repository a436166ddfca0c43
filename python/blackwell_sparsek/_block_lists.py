"""Block lists as tensor arithmetic: compact, sort, pack, unpack.

Every function runs on its inputs' device in O(number of blocks), reads nothing back to the host
and allocates shapes that follow from its inputs' shapes alone, so that it can be captured in a CUDA
graph and replayed with new contents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._block_kernels import build

# Which pairs of listed blocks may attend: see `element_bits`.
ElementRule = Callable[[Tensor, Tensor, int, int], Tensor]

_CHUNK_ELEMENTS = 1 << 22  # (query, key) pairs evaluated at a time: bounds the bool scratch memory


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def problem(argument: str, rule: str, got: object, remedy: str) -> str:
    """The text of an error: argument, rule, value got, remedy."""
    return f"{argument}: {rule}; got {got}. {remedy}"


def readable(tensor: Tensor) -> bool:
    """Whether looking at the contents costs no synchronisation (real memory of this CPU)."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return type(tensor) in (Tensor, torch.nn.Parameter)


def require(condition: Tensor, message: str) -> None:
    """Raises ValueError on the CPU; elsewhere a device-side assertion, without synchronising."""
    if readable(condition):
        if not bool(condition.all()):
            raise ValueError(message)
    else:
        torch._assert_async(condition.all(), message)  # type: ignore[no-untyped-call, unused-ignore]


def compact(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the kept values of each row to its front, in order.

    values: int32 [..., width]; keep: bool, same shape. Returns counts int32 [...] and the values,
    int32 [..., width], of which the first `count` are the kept ones and the rest are the others.
    """
    kept = keep.cumsum(-1)
    counts = keep.sum(-1)
    position = torch.arange(values.shape[-1], device=values.device)
    # The slots are a permutation of the row, so that the scatter has no collisions.
    slot = torch.where(keep, kept - 1, counts.unsqueeze(-1) + position - kept)
    ordered = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    return counts.to(torch.int32), ordered.scatter_(-1, slot, values)


def lists_from_dense(
    mask: Tensor, width: int | None = None, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Block lists of a bool mask [batch, heads, q_blocks, kv_blocks].

    Returns counts int32 [batch, heads, q_blocks] and ascending indices int32 [..., width]; they are
    written into `out` where it is given. `width` defaults to kv_blocks and is otherwise a promise
    that no row holds more.
    """
    batch, heads, q_blocks, kv_blocks = mask.shape
    shape = (batch, heads, q_blocks, kv_blocks)
    capacity = kv_blocks if width is None else min(width, kv_blocks)
    if out is not None:
        capacity = out[1].shape[-1]
    built = build("dense", shape, (capacity, 0), (mask,), out=out)
    if built is not None:
        return built[0], built[1]
    blocks = torch.arange(kv_blocks, dtype=torch.int32, device=mask.device)
    counts, indices = compact(blocks.expand(mask.shape), mask)
    if width is not None and width < kv_blocks:
        message = (
            f"block lists: a row holds at most {width} blocks here, and this mask has a row with "
            "more. Raise the capacity (max_partial_blocks, max_document_len) or leave it out."
        )
        require(counts <= width, message)
        indices = indices[..., :width].contiguous()
    if out is not None:
        out[0].copy_(counts)
        out[1].copy_(indices)
        return out
    return counts, indices


def dense_from_lists(counts: Tensor, indices: Tensor, kv_blocks: int) -> Tensor:
    """The bool mask [batch, heads, q_blocks, kv_blocks] that two block lists mean."""
    listed = torch.arange(indices.shape[-1], device=indices.device) < counts.unsqueeze(-1)
    column = torch.where(listed, indices, kv_blocks).long()  # what is not listed lands in a spare
    dense = torch.zeros(
        (*indices.shape[:-1], kv_blocks + 1), dtype=torch.bool, device=indices.device
    )
    return dense.scatter_(-1, column, True)[..., :kv_blocks].contiguous()


def sorted_lists(counts: Tensor | None, indices: Tensor, kv_blocks: int) -> tuple[Tensor, Tensor]:
    """Ascending lists without duplicates, of lists in any order.

    counts: int [...] or None (every entry counts that is not -1); indices: int [..., width] with -1
    as padding. Entries outside [-1, kv_blocks) are an error (on a GPU: a device-side assertion).
    """
    batch, heads, q_blocks, width = indices.shape
    built = build("lists", (batch, heads, q_blocks, kv_blocks), (width, 0), (indices, counts))
    if built is not None:
        return built[0], built[1]
    valid = indices >= 0
    if counts is not None:
        require(
            (counts >= 0) & (counts <= indices.shape[-1]),
            f"counts: each must lie in [0, {indices.shape[-1]}], the width of indices. "
            "Pass counts=None to take every entry that is not -1.",
        )
        listed = torch.arange(indices.shape[-1], device=indices.device) < counts.unsqueeze(-1)
        valid = valid & listed
    else:
        listed = torch.ones_like(valid)
    require(
        ~listed | ((indices >= -1) & (indices < kv_blocks)),
        f"indices: each listed one must be a key block in [0, {kv_blocks}) or -1 for padding. "
        "Check kv_len and block_size, or the counts.",
    )
    ordered = torch.where(valid, indices, kv_blocks).to(torch.int32).sort(-1).values
    keep = ordered < kv_blocks
    keep[..., 1:] &= ordered[..., 1:] != ordered[..., :-1]
    return compact(torch.where(keep, ordered, 0), keep)


def pack_bits(elements: Tensor) -> Tensor:
    """bool [..., block_k] to uint8 [..., block_k / 8]; bit (j % 8) of byte (j / 8) is key j."""
    octets = elements.reshape(*elements.shape[:-1], elements.shape[-1] // 8, 8).to(torch.uint8)
    shift = torch.arange(8, dtype=torch.uint8, device=elements.device)
    return (octets << shift).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: Tensor) -> Tensor:
    """uint8 [..., block_k / 8] to bool [..., block_k]: the inverse of `pack_bits`."""
    shift = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(-1) >> shift) & 1).bool().flatten(-2)


def element_bits(
    indices: Tensor,
    block_size: tuple[int, int],
    rule: ElementRule,
) -> Tensor:
    """Packed bits of each listed block, a bounded number of query blocks at a time.

    indices: int32 [batch, heads, q_blocks, width]. `rule(q, k, first, last)` is given the positions
    of the query blocks first..last-1, q [last - first, 1, block_q, 1] and
    k [batch, heads, last - first, width, 1, block_k], and returns a bool tensor that broadcasts to
    [batch, heads, last - first, width, block_q, block_k]. Returns uint8
    [batch, heads, q_blocks, width, block_q, block_k / 8].
    """
    block_q, block_k = block_size
    batch, heads, q_blocks, width = indices.shape
    bits = torch.empty(
        (batch, heads, q_blocks, width, block_q, block_k // 8),
        dtype=torch.uint8,
        device=indices.device,
    )
    per_q_block = max(1, batch * heads * width * block_q * block_k)
    step = max(1, _CHUNK_ELEMENTS // per_q_block)
    row = torch.arange(block_q, device=indices.device).view(block_q, 1)
    column = torch.arange(block_k, device=indices.device)
    for first in range(0, q_blocks, step):
        last = min(q_blocks, first + step)
        block = torch.arange(first, last, device=indices.device)
        q = block.view(-1, 1, 1, 1) * block_q + row
        k = indices[:, :, first:last, :, None, None].long() * block_k + column
        bits[:, :, first:last] = pack_bits(rule(q, k, first, last))
    return bits
