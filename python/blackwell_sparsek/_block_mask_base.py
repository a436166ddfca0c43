"""What a block mask holds: its lists, the rules they keep, and the dense masks they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Self

from blackwell_sparsek import _C

from ._block_checks import (
    BlockSize,
    checked_block_size,
    checked_int,
    checked_lengths,
    checked_rank4,
    checked_same_device,
    checked_tensor,
)
from ._block_lists import (
    ElementRule,
    ceil_div,
    dense_from_lists,
    element_bits,
    lists_from_dense,
    problem,
    readable,
    sorted_lists,
    unpack_bits,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INTEGERS = (torch.int32, torch.int64)


class BlockMaskBase:
    """The lists of `BlockMask` (see there), how they are made and what they mean."""

    __slots__ = (
        "_prepared",
        "block_size",
        "full_counts",
        "full_indices",
        "kv_blocks",
        "kv_len",
        "partial_bits",
        "partial_counts",
        "partial_indices",
        "q_len",
    )

    def __init__(
        self,
        full_counts: Tensor,
        full_indices: Tensor,
        partial_counts: Tensor | None = None,
        partial_indices: Tensor | None = None,
        partial_bits: Tensor | None = None,
        *,
        block_size: BlockSize = 128,
        q_len: int | None = None,
        kv_len: int | None = None,
        kv_blocks: int | None = None,
    ) -> None:
        """Takes finished lists as they are (see the class for shapes), without a copy.

        The lists must be ascending, without duplicates, and no block in both; `from_indices` makes
        such lists of others. `kv_blocks` defaults to ceil(kv_len / block_k), else to full_width.

        Raises:
            TypeError, ValueError: a dtype, shape, device or number that breaks these rules.
        """
        self.block_size = checked_block_size(block_size)
        self.full_counts = checked_tensor("full_counts", full_counts, (torch.int32,))
        self.full_indices = checked_tensor("full_indices", full_indices, (torch.int32,))
        _check_lists("full", full_counts, full_indices)
        if kv_blocks is not None:
            self.kv_blocks = checked_int("kv_blocks", kv_blocks, 0)
        elif kv_len is not None:
            self.kv_blocks = ceil_div(checked_int("kv_len", kv_len, 0), self.block_size[1])
        else:
            self.kv_blocks = full_indices.shape[-1]
        q_blocks = full_counts.shape[2]
        checked_lengths(self.block_size, q_blocks, self.kv_blocks, q_len, kv_len, "block lists")
        self.q_len = q_len
        self.kv_len = kv_len

        partial = (partial_counts, partial_indices, partial_bits)
        if any(tensor is None for tensor in partial) != all(tensor is None for tensor in partial):
            given = [type(tensor).__name__ for tensor in partial]
            raise ValueError(
                problem(
                    "partial_counts, partial_indices, partial_bits",
                    "must be given together",
                    given,
                    "Pass all three, or none for a mask of full blocks only.",
                )
            )
        self.partial_counts = partial_counts
        self.partial_indices = partial_indices
        self.partial_bits = partial_bits
        if partial_counts is not None and partial_indices is not None and partial_bits is not None:
            checked_tensor("partial_counts", partial_counts, (torch.int32,))
            checked_tensor("partial_indices", partial_indices, (torch.int32,))
            checked_tensor("partial_bits", partial_bits, (torch.uint8,))
            _check_lists("partial", partial_counts, partial_indices)
            if partial_counts.shape != full_counts.shape:
                raise ValueError(
                    problem(
                        "partial_counts",
                        f"must have the shape of full_counts, {tuple(full_counts.shape)}",
                        tuple(partial_counts.shape),
                        "Both lists describe the same query blocks.",
                    )
                )
            block_q, block_k = self.block_size
            expected = (*partial_indices.shape, block_q, block_k // 8)
            if tuple(partial_bits.shape) != expected or not partial_bits.is_contiguous():
                raise ValueError(
                    problem(
                        "partial_bits",
                        f"must be contiguous with shape {expected}",
                        f"shape {tuple(partial_bits.shape)}, stride {partial_bits.stride()}",
                        "One bit per pair: [.., partial_width, block_q, block_k / 8].",
                    )
                )
            for name, tensor in (
                ("partial_counts", partial_counts),
                ("partial_indices", partial_indices),
                ("partial_bits", partial_bits),
            ):
                checked_same_device("full_counts", full_counts, name, tensor)
        if all(tensor is None or readable(tensor) for tensor in self._tensors()):
            self.check_contents()

    @classmethod
    def _of_lists(
        cls,
        lists: tuple[Tensor, ...],
        block_size: tuple[int, int],
        q_len: int | None,
        kv_len: int | None,
        kv_blocks: int,
    ) -> Self:
        """A mask of the two or five tensors that a builder made: right by construction, unchecked."""
        mask = cls.__new__(cls)
        put = object.__setattr__
        put(mask, "full_counts", lists[0])
        put(mask, "full_indices", lists[1])
        has_partial = len(lists) == 5
        put(mask, "partial_counts", lists[2] if has_partial else None)
        put(mask, "partial_indices", lists[3] if has_partial else None)
        put(mask, "partial_bits", lists[4] if has_partial else None)
        put(mask, "block_size", block_size)
        put(mask, "q_len", q_len)
        put(mask, "kv_len", kv_len)
        put(mask, "kv_blocks", kv_blocks)
        put(mask, "_prepared", None)
        return mask

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        object.__setattr__(self, "_prepared", None)  # what calls read is of the old value

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        state = {name: getattr(self, name) for name in BlockMaskBase.__slots__}
        del state["_prepared"]  # holds addresses
        return None, state

    # ---- from other representations -------------------------------------------------------------

    @classmethod
    def from_dense(
        cls,
        mask: Tensor,
        block_size: BlockSize = 128,
        *,
        q_len: int | None = None,
        kv_len: int | None = None,
    ) -> Self:
        """A mask of whole blocks from a bool tensor with one entry per block.

        Args:
            mask: bool [batch | 1, heads, q_blocks, kv_blocks] (or [q_blocks, kv_blocks]); True =
                compute the block.
            block_size: block_q = block_k, or (block_q, block_k).
            q_len, kv_len: bind the mask to these lengths (checked against the number of blocks).

        Raises:
            TypeError: `mask` is not a bool tensor. ValueError: its shape breaks a rule.
        """
        sizes = checked_block_size(block_size)
        mask = checked_rank4("mask", checked_tensor("mask", mask, (torch.bool,)), "kv_blocks")
        checked_lengths(sizes, mask.shape[2], mask.shape[3], q_len, kv_len, "mask")
        return cls._of_lists(lists_from_dense(mask), sizes, q_len, kv_len, mask.shape[3])

    @classmethod
    def from_indices(
        cls,
        counts: Tensor | None,
        indices: Tensor,
        block_size: BlockSize = 128,
        *,
        kv_len: int | None = None,
        q_len: int | None = None,
        kv_blocks: int | None = None,
    ) -> Self:
        """A mask of whole blocks from lists of key blocks, e.g. top-k selections.

        Args:
            counts: int32/int64 [batch | 1, heads, q_blocks], how many entries of each row are
                listed; None = the whole row.
            indices: int32/int64 [batch | 1, heads, q_blocks, width] (or [q_blocks, width]), key
                blocks in any order. -1 is padding, anywhere; a block listed twice counts once.
            kv_len, kv_blocks: the number of keys, or of key blocks: one of them is needed, because
                lists alone do not tell where the keys end.

        Raises:
            TypeError, ValueError: a dtype, shape, device, count or index that breaks these rules.
        """
        sizes = checked_block_size(block_size)
        checked_tensor("indices", indices, _INTEGERS)
        lists = checked_rank4("indices", indices, "width")
        if counts is not None:
            checked_tensor("counts", counts, _INTEGERS)
            checked_same_device("indices", indices, "counts", counts)
            if counts.shape != indices.shape[:-1]:
                raise ValueError(
                    problem(
                        "counts",
                        f"must have the shape of indices without its last dimension, "
                        f"{tuple(indices.shape[:-1])}",
                        tuple(counts.shape),
                        "Pass one count per row of indices, or None.",
                    )
                )
            counts = counts.view(lists.shape[:-1])
        kv_blocks = checked_kv_blocks(kv_len, kv_blocks, sizes[1])
        checked_lengths(sizes, lists.shape[2], kv_blocks, q_len, kv_len, "indices")
        full = sorted_lists(counts, lists, kv_blocks)
        return cls._of_lists(full, sizes, q_len, kv_len, kv_blocks)

    @classmethod
    def _from_blocks(
        cls,
        full: Tensor,
        partial: Tensor,
        rule: ElementRule,
        *,
        block_size: tuple[int, int],
        q_len: int,
        kv_len: int,
        partial_width: int | None = None,
    ) -> Self:
        """Block-level bool masks [batch, heads, q_blocks, kv_blocks] and the rule of the partial
        ones (see `element_bits`)."""
        partial_counts, partial_indices = lists_from_dense(partial, partial_width)
        if partial_indices.shape[-1] == 0:
            return cls.from_dense(full, block_size, q_len=q_len, kv_len=kv_len)
        counts, indices = lists_from_dense(full)
        bits = element_bits(partial_indices, block_size, rule)
        lists = (counts, indices, partial_counts, partial_indices, bits)
        return cls._of_lists(lists, block_size, q_len, kv_len, full.shape[-1])

    def check_contents(self) -> None:
        """Reads the lists and raises ValueError where a count or an index is out of range, a list
        does not ascend, or a block is both full and partial. Synchronises with the device: a mask
        on the CPU is checked when it is made, one on a GPU only in debug mode.
        """
        _check_contents("full", self.full_counts, self.full_indices, self.kv_blocks)
        if self.partial_counts is not None and self.partial_indices is not None:
            _check_contents("partial", self.partial_counts, self.partial_indices, self.kv_blocks)
            full = dense_from_lists(self.full_counts, self.full_indices, self.kv_blocks)
            partial = dense_from_lists(self.partial_counts, self.partial_indices, self.kv_blocks)
            _hold(
                ~(full & partial),
                "partial_indices: a block must not be in the full list of the same row too; "
                "got one that is. Drop it from one of the lists.",
            )

    def update_(self, mask: Tensor) -> Self:
        """Replaces the contents, in the same buffers, by those of a bool mask [batch, heads,
        q_blocks, kv_blocks] of whole blocks (as `from_dense`), so that a CUDA graph captured with
        this mask replays with the new one. Partial blocks, if there were any, are gone.

        Raises:
            TypeError, ValueError: dtype, device or shape differ, or a row outgrows its capacity.
        """
        mask = checked_rank4("mask", checked_tensor("mask", mask, (torch.bool,)), "kv_blocks")
        checked_same_device("full_counts", self.full_counts, "mask", mask)
        if tuple(mask.shape) != self.shape:
            raise ValueError(
                problem(
                    "mask",
                    f"must have this mask's shape {self.shape}",
                    tuple(mask.shape),
                    "Make a new BlockMask for another shape.",
                )
            )
        out = (self.full_counts, self.full_indices)
        lists_from_dense(mask, self.full_indices.shape[-1], out)
        if self.partial_counts is not None:
            self.partial_counts.zero_()
        return self

    # ---- to other representations ---------------------------------------------------------------

    def to_dense(self) -> Tensor:
        """bool [batch, heads, q_blocks, kv_blocks]: which blocks are computed at all."""
        dense = dense_from_lists(self.full_counts, self.full_indices, self.kv_blocks)
        if self.partial_counts is not None and self.partial_indices is not None:
            dense |= dense_from_lists(self.partial_counts, self.partial_indices, self.kv_blocks)
        return dense

    def to_dense_mask(self, q_len: int | None = None, kv_len: int | None = None) -> Tensor:
        """bool [batch, heads, q_len, kv_len]: which pairs may attend. O(q_len * kv_len) memory.

        Args:
            q_len, kv_len: default to the mask's own, else to whole blocks.
        """
        block_q, block_k = self.block_size
        q_len = self._length("q_len", q_len, self.q_len, self.shape[2], block_q)
        kv_len = self._length("kv_len", kv_len, self.kv_len, self.shape[3], block_k)
        batch, heads, q_blocks, kv_blocks = self.shape
        full = dense_from_lists(self.full_counts, self.full_indices, kv_blocks)
        pairs = full[..., None, None].expand(*full.shape, block_q, block_k)
        if (
            self.partial_counts is not None
            and self.partial_indices is not None
            and self.partial_bits is not None
            and self.partial_indices.shape[-1] > 0
        ):
            listed = dense_from_lists(self.partial_counts, self.partial_indices, kv_blocks)
            slot = listed.cumsum(-1).sub_(1).clamp_(min=0)[..., None, None]
            elements = unpack_bits(self.partial_bits)
            slot = slot.expand(*listed.shape, block_q, block_k)
            pairs = pairs | (elements.gather(3, slot) & listed[..., None, None])
        flat = pairs.transpose(3, 4).reshape(batch, heads, q_blocks * block_q, kv_blocks * block_k)
        return flat[:, :, :q_len, :kv_len].contiguous()

    def _length(self, name: str, given: int | None, own: int | None, blocks: int, size: int) -> int:
        if given is None:
            return blocks * size if own is None else own
        checked_int(name, given, 0)
        if ceil_div(given, size) != blocks or (own is not None and own != given):
            rule = f"must be the mask's own {own}" if own is not None else f"must fill {blocks}"
            remedy = "Make the mask for this length."
            raise ValueError(problem(name, f"{rule} ({blocks} blocks of {size})", given, remedy))
        return given

    def to(self, device: torch.device | str | int) -> Self:
        """The mask on another device (itself, if it is there)."""
        tensors = [
            None if tensor is None else tensor.to(device, non_blocking=False)
            for tensor in self._tensors()
        ]
        if all(new is old for new, old in zip(tensors, self._tensors(), strict=True)):
            return self
        counts, indices, *partial = tensors
        assert counts is not None and indices is not None
        return type(self)(
            counts,
            indices,
            *partial,
            block_size=self.block_size,
            q_len=self.q_len,
            kv_len=self.kv_len,
            kv_blocks=self.kv_blocks,
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, q_blocks, kv_blocks)."""
        batch, heads, q_blocks = self.full_counts.shape
        return batch, heads, q_blocks, self.kv_blocks

    @property
    def device(self) -> torch.device:
        """Where the lists are."""
        return self.full_counts.device

    def row_counts(self) -> Tensor:
        """int32 [batch, heads, q_blocks]: key blocks computed for each query block."""
        if self.partial_counts is None:
            return self.full_counts
        return self.full_counts + self.partial_counts

    def density(self) -> float:
        """Blocks computed / all blocks, in [0, 1]; 0 for an empty mask. Reads back from the
        device (a synchronisation): for people and tests, not for the path of a call."""
        batch, heads, q_blocks, kv_blocks = self.shape
        blocks = batch * heads * q_blocks * kv_blocks
        return float(self.row_counts().sum(dtype=torch.int64)) / blocks if blocks else 0.0

    def plot(self, batch: int = 0, head: int = 0) -> Figure:
        """A matplotlib figure: the blocks of one head, the density of every head and how the rows'
        lengths are spread. Needs `pip install blackwell-sparsek[plot]` (ImportError otherwise)."""
        from ._block_picture import figure

        return figure(self, batch, head)

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return (
            self.full_counts,
            self.full_indices,
            self.partial_counts,
            self.partial_indices,
            self.partial_bits,
        )

    def _check_lengths(self, q_len: int, kv_len: int) -> None:
        """Raises ValueError where the mask was made for other lengths than a call's or has another
        number of key blocks: neither can be told from the lists."""
        block_k = self.block_size[1]
        if self.q_len is not None and self.q_len != q_len:
            rule = f"was made for q_len={self.q_len}"
            raise ValueError(problem("block_mask", rule, f"q_len={q_len}", "Make one for it."))
        if self.kv_len is not None and self.kv_len != kv_len:
            rule = f"was made for kv_len={self.kv_len}"
            raise ValueError(problem("block_mask", rule, f"kv_len={kv_len}", "Make one for it."))
        if (kv_len + block_k - 1) // block_k != self.kv_blocks:
            rule = f"covers {self.kv_blocks} key blocks of {block_k} keys"
            raise ValueError(problem("block_mask", rule, f"kv_len={kv_len}", "Make one for it."))

    def _native(
        self, q_len: int, kv_len: int
    ) -> tuple[int, int, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """What `_C.attention_forward` takes as block_mask, for a call of these lengths."""
        self._check_lengths(q_len, kv_len)
        return (
            *self.block_size,
            self.full_counts,
            self.full_indices,
            self.partial_counts,
            self.partial_indices,
            self.partial_bits,
        )

    def _prepare(self) -> object:
        """The lists as a native call reads them; `attention_forward` asks once and keeps it here."""
        # Aliases: a list made to point elsewhere (`.data =`, `set_`) leaves its memory alive.
        lists: tuple[Tensor | None, ...] = (self.full_counts.data, self.full_indices.data)
        if self.partial_bits is None:
            lists += (None, None, None)
        else:
            assert self.partial_counts is not None and self.partial_indices is not None
            partial = (self.partial_counts.data, self.partial_indices.data, self.partial_bits.data)
            lists += partial
        prepared = _C.prepare_block_mask(
            (*self.block_size, *lists), self.q_len, self.kv_len, self.kv_blocks
        )
        object.__setattr__(self, "_prepared", prepared)
        return prepared

    def __repr__(self) -> str:
        batch, heads, q_blocks, kv_blocks = self.shape
        lengths = "" if self.q_len is None else f", q_len={self.q_len}"
        lengths += "" if self.kv_len is None else f", kv_len={self.kv_len}"
        partial = "" if self.partial_indices is None else ", with partial blocks"
        return (
            f"{type(self).__name__}(batch={batch}, heads={heads}, q_blocks={q_blocks}, "
            f"kv_blocks={kv_blocks}, block_size={self.block_size}{lengths}, "
            f"device={str(self.device)!r}{partial})"
        )


def checked_kv_blocks(kv_len: int | None, kv_blocks: int | None, block_k: int) -> int:
    if kv_len is not None:
        of_length = ceil_div(checked_int("kv_len", kv_len, 0), block_k)
        if kv_blocks is not None and kv_blocks != of_length:
            rule = f"must be ceil(kv_len / block_k) = {of_length}"
            raise ValueError(problem("kv_blocks", rule, kv_blocks, "Pass kv_len alone."))
        return of_length
    if kv_blocks is None:
        rule = "kv_len or kv_blocks is needed: lists do not tell how many key blocks there are"
        raise ValueError(problem("kv_len", rule, None, "Pass kv_len=K.shape[2]."))
    return checked_int("kv_blocks", kv_blocks, 0)


def _check_lists(name: str, counts: Tensor, indices: Tensor) -> None:
    """Shapes, contiguity and device of one pair of counts and indices."""
    if counts.dim() != 3 or indices.dim() != 4 or indices.shape[:3] != counts.shape:
        raise ValueError(
            problem(
                f"{name}_counts, {name}_indices",
                "must be [batch, heads, q_blocks] and [batch, heads, q_blocks, width]",
                f"{tuple(counts.shape)} and {tuple(indices.shape)}",
                "Insert dimensions of size 1 for what the mask does not depend on.",
            )
        )
    for which, tensor in ((f"{name}_counts", counts), (f"{name}_indices", indices)):
        if not tensor.is_contiguous():
            rule = "must be contiguous"
            got = f"shape {tuple(tensor.shape)}, stride {tensor.stride()}"
            raise ValueError(problem(which, rule, got, "Call .contiguous() on it."))
    checked_same_device(f"{name}_counts", counts, f"{name}_indices", indices)


def _check_contents(name: str, counts: Tensor, indices: Tensor, kv_blocks: int) -> None:
    width = indices.shape[-1]
    _hold(
        (counts >= 0) & (counts <= width),
        f"{name}_counts: each must lie in [0, {width}], the width of {name}_indices; "
        "got one outside. Correct them.",
    )
    listed = torch.arange(width, device=counts.device) < counts.unsqueeze(-1)
    _hold(
        ~listed | ((indices >= 0) & (indices < kv_blocks)),
        f"{name}_indices: each listed one must be a key block in [0, {kv_blocks}); got one "
        "outside. Correct them.",
    )
    _hold(
        ~listed[..., 1:] | (indices[..., 1:] > indices[..., :-1]),
        f"{name}_indices: the listed ones must ascend without duplicates; got others. "
        "BlockMask.from_indices sorts and de-duplicates for you.",
    )


def _hold(condition: Tensor, message: str) -> None:
    if not bool(condition.all()):
        raise ValueError(message)
