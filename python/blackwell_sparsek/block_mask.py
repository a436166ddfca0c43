"""`BlockMask`: which (query block, key block) pairs an attention call computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from ._block_checks import (
    BlockSize,
    checked_block_size,
    checked_int,
    checked_lengths,
    checked_same_device,
    checked_tensor,
)
from ._block_kernels import build
from ._block_lists import problem, require, sorted_lists
from ._block_mask_base import checked_kv_blocks
from .block_mask_builders import PatternBuilders

_INTEGERS = (torch.int32, torch.int64)


class BlockMask(PatternBuilders):
    """Block sparsity of an attention call, per batch and per head, held as device data.

    Queries are cut into blocks of block_q and keys into blocks of block_k (the last of each may be
    ragged). For every query block there are two ascending lists of key blocks: full ones, in which
    every pair may attend, and partial ones, in which one bit per pair decides. Blocks in neither
    list are not computed. The mask is ANDed with `is_causal`, `window` and `attn_mask`.

    Make one with `from_dense`, `from_indices`, `from_bsr`, `from_flex`, `from_fa4` or a pattern
    (`sliding_window`, `vertical_slash`, `document`, `top_k`, `cumulative_mass`, `strided`,
    `random`). All of them run on the tensors' device in O(number of blocks), never synchronise with
    the host, and may be captured in a CUDA graph, which then replays with new contents; on a Hopper
    GPU most are one kernel (docs/block_masks.md). Values that break a rule (an index out of range)
    raise ValueError for CPU tensors; on a GPU, where reading them would synchronise, they trip a
    device-side assertion.

    The lists' contents may change in place, and lists may be assigned; a list tensor that is made
    to point to other memory (`.data =`, `set_`) is not noticed once the mask was used.

    Attributes:
        full_counts: int32 [batch, heads, q_blocks], full blocks of each query block.
        full_indices: int32 [batch, heads, q_blocks, full_width]; the first `count` are valid.
        partial_counts, partial_indices: the same for partial blocks, or None.
        partial_bits: uint8 [batch, heads, q_blocks, partial_width, block_q, block_k / 8] or None;
            bit (j % 8) of byte (j / 8) tells whether the query may attend to key j of the block.
        block_size: (block_q, block_k), block_q in {64, 128}, block_k in {16, 32, 64, 128}.
        q_len, kv_len: the lengths that the mask was made for, or None (not bound: any length with
            as many blocks).
        kv_blocks: number of key blocks.

    `batch` is 1 or the call's batch; `heads` is 1, its kv_heads or its q_heads.
    """

    __slots__ = ()

    @classmethod
    def from_bsr(
        cls,
        indptr: Tensor,
        indices: Tensor,
        block_size: BlockSize = 128,
        *,
        kv_len: int | None = None,
        q_len: int | None = None,
        kv_blocks: int | None = None,
        max_blocks_per_row: int | None = None,
    ) -> Self:
        """A mask of whole blocks from block compressed sparse rows, as FlashInfer's.

        Accepted, exactly: `indptr` [q_blocks + 1] with `indices` [nnz] (one pattern for every batch
        and head), or `indptr` [batch | 1, heads, q_blocks + 1] with `indices`
        [batch | 1, heads, nnz] (each head's offsets count within its own row of `indices`).
        The blocks of query block r are `indices[indptr[r] : indptr[r + 1]]`, in any order,
        duplicates counting once. A bit mask within blocks is not accepted.

        Args:
            indptr, indices: int32/int64, on one device.
            kv_len, kv_blocks: the number of keys, or of key blocks: one of them is needed.
            max_blocks_per_row: capacity of a row, default kv_blocks. A smaller one saves memory and
                is a promise: a longer row is an error.

        Raises:
            TypeError, ValueError: a dtype, shape, device, offset or index that breaks these rules.
        """
        sizes = checked_block_size(block_size)
        checked_tensor("indptr", indptr, _INTEGERS)
        checked_tensor("indices", indices, _INTEGERS)
        checked_same_device("indptr", indptr, "indices", indices)
        if (indptr.dim(), indices.dim()) == (1, 1):
            indptr, indices = indptr[None, None], indices[None, None]
        if indptr.dim() != 3 or indices.dim() != 3 or indptr.shape[:2] != indices.shape[:2]:
            raise ValueError(
                problem(
                    "indptr, indices",
                    "must be [q_blocks + 1] and [nnz], or [batch, heads, q_blocks + 1] and "
                    "[batch, heads, nnz]",
                    f"{tuple(indptr.shape)} and {tuple(indices.shape)}",
                    "Give both the same leading dimensions.",
                )
            )
        if indptr.shape[-1] < 1:
            rule = "must hold q_blocks + 1 offsets"
            raise ValueError(problem("indptr", rule, "none", "Start it with a 0."))
        kv_blocks = checked_kv_blocks(kv_len, kv_blocks, sizes[1])
        checked_lengths(sizes, indptr.shape[-1] - 1, kv_blocks, q_len, kv_len, "indptr")
        width = kv_blocks
        if max_blocks_per_row is not None:
            width = checked_int("max_blocks_per_row", max_blocks_per_row, 0)
        batch, heads, q_blocks = indptr.shape[0], indptr.shape[1], indptr.shape[2] - 1
        built = build(
            "compressed_rows",
            (batch, heads, q_blocks, kv_blocks),
            (width, 0),
            (indptr, indices),
            (width,),
        )
        if built is not None:
            return cls._of_lists(built, sizes, q_len, kv_len, kv_blocks)
        begin, end = indptr[..., :-1], indptr[..., 1:]
        require(
            (begin >= 0) & (end >= begin) & (end <= indices.shape[-1]) & (end - begin <= width),
            f"indptr: must rise from >= 0 to <= nnz = {indices.shape[-1]} by at most {width} "
            "blocks a row. Check it, or raise max_blocks_per_row.",
        )
        slot = torch.arange(width, device=indptr.device)
        if indices.shape[-1] == 0:
            lists = slot.new_zeros((*begin.shape, width))
        else:
            source = (begin.unsqueeze(-1) + slot).clamp_(max=indices.shape[-1] - 1).long()
            lists = indices.gather(-1, source.flatten(-2)).view(*begin.shape, width)
        full = sorted_lists(end - begin, lists, kv_blocks)
        return cls._of_lists(full, sizes, q_len, kv_len, kv_blocks)

    @classmethod
    def from_flex(cls, block_mask: Any, *, max_partial_blocks: int | None = None) -> Self:
        """A mask equal to a `torch.nn.attention.flex_attention.BlockMask`.

        Its full blocks stay full; of its partial blocks `mask_mod` is evaluated once, here, into
        bits (vectorised, a bounded number of pairs at a time). A mask without a `mask_mod` has full
        blocks only. Where its batch (heads) is 1, mask_mod is asked for batch (head) 0 only.

        Args:
            block_mask: with BLOCK_SIZE in {64, 128} x {16, 32, 64, 128}.
            max_partial_blocks: capacity of a row of partial blocks, default that of `block_mask`
                (as a rule all key blocks). A smaller one saves memory (block_q * block_k / 8 bytes
                a block) and is a promise: a longer row is an error.

        Raises:
            TypeError: not such a mask. ValueError: BLOCK_SIZE or shapes break a rule.
        """
        from torch.nn.attention import flex_attention

        if not isinstance(block_mask, flex_attention.BlockMask):
            raise TypeError(
                problem(
                    "block_mask",
                    "must be a torch.nn.attention.flex_attention.BlockMask",
                    type(block_mask).__name__,
                    "Make one with create_block_mask, or use BlockMask.from_dense.",
                )
            )
        no_rule = block_mask.mask_mod is flex_attention.noop_mask
        q_len, kv_len = block_mask.seq_lengths
        return cls.from_fa4(
            block_mask.kv_num_blocks,
            block_mask.kv_indices,
            block_mask.full_kv_num_blocks,
            block_mask.full_kv_indices,
            mask_mod=None if no_rule else block_mask.mask_mod,
            block_size=block_mask.BLOCK_SIZE,
            q_len=int(q_len),
            kv_len=int(kv_len),
            max_partial_blocks=max_partial_blocks,
        )

    @classmethod
    def from_fa4(
        cls,
        mask_block_cnt: Tensor,
        mask_block_idx: Tensor,
        full_block_cnt: Tensor | None = None,
        full_block_idx: Tensor | None = None,
        *,
        q_len: int,
        kv_len: int,
        mask_mod: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
        block_size: BlockSize = 128,
        max_partial_blocks: int | None = None,
    ) -> Self:
        """A mask from FlashAttention-4's block lists (also FlexAttention's).

        Args:
            mask_block_cnt: int32 [batch | 1, heads, q_blocks]; mask_block_idx: int32
                [..., width]: blocks to which `mask_mod` applies.
            full_block_cnt, full_block_idx: the same for blocks without a rule, or None.
            mask_mod: (batch, head, q position, k position), scalar tensors, to a bool: True = may
                attend, FlexAttention's signature. None: every pair of the listed blocks may.

        Raises:
            TypeError, ValueError: a dtype, shape, count or index that breaks a rule.
        """
        sizes = checked_block_size(block_size)
        checked_int("q_len", q_len, 0)
        checked_int("kv_len", kv_len, 0)
        partial = cls.from_indices(
            mask_block_cnt, mask_block_idx, sizes, q_len=q_len, kv_len=kv_len
        )
        if (full_block_cnt is None) != (full_block_idx is None):
            raise ValueError(
                problem(
                    "full_block_cnt, full_block_idx",
                    "must be given together",
                    f"{type(full_block_cnt).__name__} and {type(full_block_idx).__name__}",
                    "Pass both or neither.",
                )
            )
        if full_block_cnt is not None and full_block_idx is not None:
            full = cls.from_indices(
                full_block_cnt, full_block_idx, sizes, q_len=q_len, kv_len=kv_len
            )
            full_dense = full.to_dense()
        else:
            full_dense = torch.zeros_like(partial.to_dense())
        if mask_mod is None:
            dense = full_dense | partial.to_dense()
            return cls.from_dense(dense, sizes, q_len=q_len, kv_len=kv_len)

        def rule(q: Tensor, k: Tensor, first: int, last: int) -> Tensor:
            return _evaluate_mask_mod(mask_mod, q, k, q_len, kv_len)

        width = min(mask_block_idx.shape[-1], partial.kv_blocks)
        if max_partial_blocks is not None:
            width = min(width, checked_int("max_partial_blocks", max_partial_blocks, 0))
        return cls._from_blocks(
            full_dense,
            partial.to_dense() & ~full_dense,
            rule,
            block_size=sizes,
            q_len=q_len,
            kv_len=kv_len,
            partial_width=width,
        )


def _evaluate_mask_mod(
    mask_mod: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    q_len: int,
    kv_len: int,
) -> Tensor:
    """mask_mod at q [n, 1, block_q, 1] and k [batch, heads, n, width, 1, block_k], by
    FlexAttention's own rules for calling it; False outside the lengths, where it is not asked."""
    from torch.nn.attention.flex_attention import create_mask

    batch, heads, n, width, _, block_k = k.shape
    block_q = q.shape[-2]
    q_position = q.clamp(max=max(q_len - 1, 0)).view(n * block_q)
    k_position = k.clamp(max=max(kv_len - 1, 0)).view(batch, heads, n, width * block_k)

    def at(b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return mask_mod(b, h, q_position[row], k_position[b, h, row // block_q, column])

    grid = create_mask(at, batch, heads, n * block_q, width * block_k, str(q.device))
    allowed = grid.view(batch, heads, n, block_q, width, block_k).transpose(3, 4)
    return allowed & (q < q_len) & (k < kv_len)
