"""What the patterns of `BlockMask` are made of where torch operations build them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._block_checks import checked_int, checked_tensor
from ._block_kernels import Device
from ._block_lists import ceil_div, problem, require

_INTEGERS = (torch.int32, torch.int64)


def edges(
    q_len: int, kv_len: int, sizes: Sequence[int], device: Device
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """First and last position of every query block [q_blocks, 1] and key block [kv_blocks]."""
    edges = []
    for length, size in ((q_len, sizes[0]), (kv_len, sizes[1])):
        first = torch.arange(ceil_div(length, size), device=device) * size
        edges.append((first, (first + size).clamp(max=length) - 1))
    (q_first, q_last), keys = edges
    return (q_first.unsqueeze(-1), q_last.unsqueeze(-1)), keys


def checked_document_ids(document_ids: object, q_len: int | None) -> Tensor:
    """Document ids as [batch, q_len]."""
    ids = checked_tensor("document_ids", document_ids, _INTEGERS)
    ids = ids[None] if ids.dim() == 1 else ids
    if ids.dim() != 2:
        rule = "must be [batch, q_len] or [q_len]"
        got = f"shape {tuple(ids.shape)}"
        raise ValueError(problem("document_ids", rule, got, "Drop other dimensions."))
    if q_len is not None and q_len != ids.shape[-1]:
        rule = f"must be the length of document_ids, {ids.shape[-1]}"
        raise ValueError(problem("q_len", rule, q_len, "Leave it out."))
    return ids


def checked_cu_seqlens(cu_seqlens: Tensor, q_len: int | None) -> int:
    """q_len, which must be given, of document boundaries of the right shape."""
    checked_tensor("cu_seqlens", cu_seqlens, _INTEGERS)
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        rule = "must be [documents + 1]"
        got = f"shape {tuple(cu_seqlens.shape)}"
        raise ValueError(problem("cu_seqlens", rule, got, "Start it with 0."))
    if q_len is None:
        rule = "must be given with cu_seqlens, whose last entry is on the device"
        raise ValueError(problem("q_len", rule, None, "Pass Q.shape[2]."))
    return checked_int("q_len", q_len, 0)


def ids_of_cu_seqlens(cu_seqlens: Tensor, q_len: int) -> Tensor:
    """Document of each token, int64 [1, q_len]; -1 outside all documents."""
    require(
        (cu_seqlens[1:] >= cu_seqlens[:-1]) & (cu_seqlens[:1] == 0) & (cu_seqlens[-1:] <= q_len)
        if cu_seqlens.shape[0] > 1
        else cu_seqlens == 0,
        f"cu_seqlens: must start at 0, never fall, and end at most at q_len = {q_len}. Correct it.",
    )
    token = torch.arange(q_len, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    document = torch.searchsorted(cu_seqlens, token, right=True) - 1
    return torch.where(token < cu_seqlens[-1:], document, -1)[None]


def block_ranges(ids: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of ids [batch, length] in blocks: least and greatest id >= 0 (crossed where there is none)
    and whether all ids are one and the same >= 0; each [batch, blocks]."""
    top = torch.iinfo(ids.dtype).max
    blocks = ceil_div(ids.shape[-1], size)
    # The tail repeats the last token, so that a ragged block counts only what is there.
    position = torch.arange(blocks * size, device=ids.device).clamp(max=max(ids.shape[-1] - 1, 0))
    tiled = ids[:, position].view(ids.shape[0], blocks, size)
    real = tiled >= 0
    low = torch.where(real, tiled, top).amin(-1)
    high = torch.where(real, tiled, -1).amax(-1)
    return low, high, real.all(-1) & (low == high)


def pooled(x: Tensor, size: int, pool: str) -> Tensor:
    """[batch, heads, length, head_dim] to fp32 [batch, heads, blocks, head_dim]."""
    length = x.shape[2]
    blocks = ceil_div(length, size)
    fill = 0.0 if pool == "mean" else -torch.inf
    padded = torch.nn.functional.pad(x, (0, 0, 0, blocks * size - length), value=fill)
    batch, heads, _, head_dim = x.shape
    tiles = padded.reshape(batch, heads, blocks, size, head_dim)
    if pool == "max":
        return tiles.amax(3).float()
    rows = (length - torch.arange(blocks, device=x.device) * size).clamp(max=size)
    return tiles.sum(3, dtype=torch.float32) / rows.view(-1, 1)
