"""Common patterns of block sparsity, built on the device: class methods of `BlockMask`."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from ._block_checks import (
    BlockSize,
    checked_block_size,
    checked_fraction,
    checked_int,
    checked_lengths,
    checked_rank4,
    checked_same_device,
    checked_tensor,
)
from ._block_kernels import Device, block_scores, build
from ._block_lists import ceil_div, problem, require
from ._block_mask_base import BlockMaskBase
from ._block_patterns import (
    block_ranges,
    checked_cu_seqlens,
    checked_document_ids,
    edges,
    ids_of_cu_seqlens,
    pooled,
)

_INTEGERS = (torch.int32, torch.int64)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_ALIGNMENTS = ("lower_right", "upper_left")
_FAR = 1 << 30  # farther than the kernels' lengths reach


class PatternBuilders(BlockMaskBase):
    """The patterns of `BlockMask`.

    "Exact" patterns allow exactly the pairs that they name: blocks on an edge become partial blocks
    with one bit per pair. "Block-granular" patterns compute every block they touch whole.
    """

    __slots__ = ()

    @classmethod
    def sliding_window(
        cls,
        q_len: int,
        kv_len: int,
        left: int,
        right: int = 0,
        sink: int = 0,
        *,
        align: str = "lower_right",
        block_size: BlockSize = 128,
        device: Device = None,
    ) -> Self:
        """A window around the diagonal, and the first `sink` keys. Exact.

        Query i sees key j when `d - left <= j <= d + right` or `j < sink and j <= d + right`, where
        d = i + kv_len - q_len (align="lower_right", as `window=` without causal) or d = i
        ("upper_left", SDPA's causal diagonal). With sink=0 it equals `window=(left, right)`. The
        defaults are causal; right=-1 lifts the bound on the right.

        Args:
            left, right: keys on either side of the diagonal; -1 = unbounded.
            sink: number of leading keys that every query sees ("attention sinks", Xiao et al.,
                arXiv 2309.17453).

        Raises:
            TypeError, ValueError: a number below its least, an unknown `align`.
        """
        sizes = checked_block_size(block_size)
        _checked_two_lengths(q_len, kv_len)
        checked_int("left", left, -1, "Use -1 for unbounded.")
        checked_int("right", right, -1, "Use -1 for unbounded.")
        checked_int("sink", sink, 0)
        offset = _diagonal_offset(align, q_len, kv_len)
        # An edge crosses block_q rows, hence as many keys, which touch at most so many blocks.
        per_edge = (sizes[0] - 2) // sizes[1] + 2
        sides = (left != -1) + (right != -1)
        kv_blocks = ceil_div(kv_len, sizes[1])
        partial_width = min(kv_blocks, sides * per_edge + (sink % sizes[1] != 0))
        unbounded = q_len + kv_len
        left_reach = unbounded if left == -1 else min(left, unbounded)
        right_reach = unbounded if right == -1 else min(right, unbounded)
        sink = min(sink, kv_len)
        built = build(
            "window",
            (1, 1, ceil_div(q_len, sizes[0]), kv_blocks),
            (kv_blocks, partial_width),
            numbers=(offset, *(min(n, _FAR) for n in (left_reach, right_reach, sink))),
            block_size=sizes,
            lengths=(q_len, kv_len),
            device=device,
        )
        if built is not None:
            return cls._of_lists(built, sizes, q_len, kv_len, kv_blocks)
        (q_first, q_last), (k_first, k_last) = edges(q_len, kv_len, sizes, device)
        d_first, d_last = q_first + offset, q_last + offset
        under = (
            k_first - d_last <= right_reach
        )  # some pair is on the visible side of the right edge
        near = (k_last - d_first >= -left_reach) | (k_first < sink)
        # The key most likely to fall out on the left is the first one that is not a sink.
        inside = (k_last < sink) | (k_first.clamp(min=sink) - d_last >= -left_reach)
        touched = under & near
        full = touched & (k_last - d_first <= right_reach) & inside

        def rule(q: Tensor, k: Tensor, first: int, last: int) -> Tensor:
            distance = k - (q + offset)
            return (distance <= right_reach) & ((distance >= -left_reach) | (k < sink))

        return cls._from_blocks(
            full[None, None],
            (touched & ~full)[None, None],
            rule,
            block_size=sizes,
            q_len=q_len,
            kv_len=kv_len,
            partial_width=partial_width,
        )

    @classmethod
    def vertical_slash(
        cls,
        vertical_indices: Tensor,
        slash_indices: Tensor,
        *,
        q_len: int,
        kv_len: int,
        align: str = "lower_right",
        block_size: BlockSize = 64,
    ) -> Self:
        """Key columns and diagonals (MInference, arXiv 2407.02490). Block-granular.

        Every block that holds a listed column, or a pair on a listed diagonal, is computed whole:
        a superset of the columns and diagonals. Combine it with `is_causal`.

        Args:
            vertical_indices: int32/int64 [batch | 1, heads, columns], keys in [0, kv_len).
            slash_indices: int32/int64 [batch | 1, heads, diagonals], how far left of the diagonal
                they lie, >= 0: slash s holds the pairs j = d - s with d as in `sliding_window`.
            -1 is padding in both.

        Raises:
            TypeError, ValueError: a dtype, shape, device or index that breaks these rules.
        """
        sizes = checked_block_size(block_size)
        _checked_two_lengths(q_len, kv_len)
        offset = _diagonal_offset(align, q_len, kv_len)
        checked_tensor("vertical_indices", vertical_indices, _INTEGERS)
        checked_tensor("slash_indices", slash_indices, _INTEGERS)
        checked_same_device("vertical_indices", vertical_indices, "slash_indices", slash_indices)
        if (
            vertical_indices.dim() != 3
            or slash_indices.dim() != 3
            or vertical_indices.shape[:2] != slash_indices.shape[:2]
        ):
            raise ValueError(
                problem(
                    "vertical_indices, slash_indices",
                    "must be [batch, heads, columns] and [batch, heads, diagonals]",
                    f"{tuple(vertical_indices.shape)} and {tuple(slash_indices.shape)}",
                    "Give both the same batch and heads; pad rows with -1.",
                )
            )
        block_q, block_k = sizes
        q_blocks, kv_blocks = ceil_div(q_len, block_q), ceil_div(kv_len, block_k)
        batch, heads, _ = vertical_indices.shape
        built = build(
            "vertical_slash",
            (batch, heads, q_blocks, kv_blocks),
            (kv_blocks, 0),
            (vertical_indices, slash_indices),
            (offset,),
            block_size=sizes,
            lengths=(q_len, kv_len),
        )
        if built is not None:
            return cls._of_lists(built, sizes, q_len, kv_len, kv_blocks)
        require(
            (vertical_indices >= -1) & (vertical_indices < kv_len),
            f"vertical_indices: each must be a key in [0, {kv_len}) or -1 for padding. Correct it.",
        )
        require(slash_indices >= -1, "slash_indices: each must be >= 0 or -1 for padding. Fix it.")
        device = vertical_indices.device

        column = torch.where(vertical_indices >= 0, vertical_indices // block_k, kv_blocks).long()
        columns = torch.zeros((batch, heads, kv_blocks + 1), dtype=torch.bool, device=device)
        columns.scatter_(-1, column, True)

        # Rows of query block r put a diagonal on the keys first..last: so many blocks at most.
        span = (block_q - 2) // block_k + 2
        q_first = torch.arange(q_blocks, device=device) * block_q
        q_last = (q_first + block_q).clamp(max=q_len) - 1
        shift = (offset - slash_indices.long()).unsqueeze(2)  # [batch, heads, 1, diagonals]
        first = (q_first.view(-1, 1) + shift).clamp(min=0)
        last = (q_last.view(-1, 1) + shift).clamp(max=kv_len - 1)
        block = (first // block_k).unsqueeze(-1) + torch.arange(span, device=device)
        crossed = (block * block_k <= last.unsqueeze(-1)) & (first <= last).unsqueeze(-1)
        crossed &= (slash_indices >= 0)[:, :, None, :, None]
        block = torch.where(crossed, block, kv_blocks).flatten(-2)
        mask = torch.zeros((batch, heads, q_blocks, kv_blocks + 1), dtype=torch.bool, device=device)
        mask.scatter_(-1, block, True)
        mask |= columns.unsqueeze(2)
        return cls.from_dense(mask[..., :kv_blocks], sizes, q_len=q_len, kv_len=kv_len)

    @classmethod
    def document(
        cls,
        document_ids: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        q_len: int | None = None,
        max_document_len: int | None = None,
        block_size: BlockSize = 128,
    ) -> Self:
        """Packed documents: a query sees the keys of its own document only. Exact.

        Give one of `document_ids` and `cu_seqlens`; queries and keys are the same tokens
        (kv_len = q_len). Combine it with `is_causal` for causal documents.

        Args:
            document_ids: int32/int64 [batch | 1, q_len] or [q_len]; a negative id is padding, which
                attends to nothing and is attended by nothing. Ids in any order are right; ascending
                ones keep the lists short.
            cu_seqlens: int32/int64 [documents + 1], ascending first tokens and the end, as
                FlashAttention's; tokens from the last entry on are padding. Needs `q_len`.
            max_document_len: a promise that no document is longer and that documents are
                contiguous; it bounds the memory of the partial blocks, which is otherwise
                q_len**2 / 8 bytes a batch. Blocks that do not fit into it are an error.

        Raises:
            TypeError, ValueError: a dtype, shape or number that breaks these rules.
        """
        sizes = checked_block_size(block_size)
        if (document_ids is None) == (cu_seqlens is None):
            got = "both" if document_ids is not None else "neither"
            rule = "exactly one of document_ids and cu_seqlens must be given"
            raise ValueError(problem("document_ids", rule, got, "Pass the one you have."))
        if cu_seqlens is not None:
            length = checked_cu_seqlens(cu_seqlens, q_len)
            kind, tokens, batch = "segments", cu_seqlens, 1
        else:
            ids = checked_document_ids(document_ids, q_len)
            batch, length = ids.shape
            kind, tokens = "ids", ids
        block_q, block_k = sizes
        kv_blocks = width = ceil_div(length, block_k)
        if max_document_len is not None:
            checked_int("max_document_len", max_document_len, 1)
            reach = block_q + 2 * (max_document_len - 1)  # the keys that one query block can see
            width = min(width, (reach - 2) // block_k + 2)
        built = build(
            kind,
            (batch, 1, ceil_div(length, block_q), kv_blocks),
            (kv_blocks, width),
            (tokens,),
            block_size=sizes,
            lengths=(length, length),
        )
        if built is not None:
            return cls._of_lists(built, sizes, length, length, kv_blocks)
        if cu_seqlens is not None:
            ids = ids_of_cu_seqlens(cu_seqlens, length)
        q_low, q_high, q_even = block_ranges(ids, block_q)
        k_low, k_high, k_even = block_ranges(ids, block_k)
        # Ids of sorted documents overlap exactly where their ranges do; of others, at most there.
        touched = (q_low.unsqueeze(-1) <= k_high.unsqueeze(-2)) & (
            k_low.unsqueeze(-2) <= q_high.unsqueeze(-1)
        )
        full = touched & q_even.unsqueeze(-1) & k_even.unsqueeze(-2)
        full = full & (q_low.unsqueeze(-1) == k_low.unsqueeze(-2))

        def rule_of_ids(q: Tensor, k: Tensor, first: int, last: int) -> Tensor:
            batch = ids.shape[0]
            q_ids = ids[:, q.clamp(max=max(length - 1, 0)).flatten()]
            q_ids = q_ids.view(batch, 1, *q.shape)
            row = torch.arange(batch, device=ids.device).view(batch, 1, 1, 1, 1, 1)
            k_ids = ids[row, k.clamp(max=max(length - 1, 0))]
            return (q_ids == k_ids) & (q_ids >= 0) & (q < length) & (k < length)

        return cls._from_blocks(
            full.unsqueeze(1),
            (touched & ~full).unsqueeze(1),
            rule_of_ids,
            block_size=sizes,
            q_len=length,
            kv_len=length,
            partial_width=width,
        )

    @classmethod
    def top_k(
        cls,
        scores: Tensor,
        k: int,
        *,
        block_size: BlockSize = 128,
        q_len: int | None = None,
        kv_len: int | None = None,
    ) -> Self:
        """The k best key blocks of every query block. Block-granular.

        Args:
            scores: float [batch | 1, heads, q_blocks, kv_blocks] (see `pooled_scores`). A block
                whose score is -inf or NaN is never taken, so a row may hold fewer than k.
            k: blocks per query block, >= 0 (all, where there are fewer). Among equal scores the
                lowest blocks are taken.

        Raises:
            TypeError, ValueError: a dtype, shape or number that breaks these rules.
        """
        sizes, scores = _checked_scores(scores, block_size, q_len, kv_len)
        checked_int("k", k, 0)
        return cls._top_k(scores, k, sizes, q_len, kv_len)

    @classmethod
    def _top_k(
        cls,
        scores: Tensor,
        k: int,
        sizes: tuple[int, int],
        q_len: int | None,
        kv_len: int | None,
        diagonal_first: bool = False,
    ) -> Self:
        """top_k of checked arguments; the block of the lower-right diagonal before all others if
        `diagonal_first`, which needs the lengths."""
        batch, heads, q_blocks, kv_blocks = scores.shape
        k = min(k, kv_blocks)
        built = build(
            "top_k",
            (batch, heads, q_blocks, kv_blocks),
            (k, 0),
            (scores,),
            (k, diagonal_first),
            block_size=sizes,
            lengths=(q_len or 0, kv_len or 0),
        )
        if built is not None:
            return cls._of_lists(built, sizes, q_len, kv_len, kv_blocks)
        if diagonal_first:
            assert q_len is not None and kv_len is not None
            (_, q_last), (k_first, _) = edges(q_len, kv_len, sizes, scores.device)
            on_diagonal = (q_last + kv_len - q_len).clamp(min=0) // sizes[1]
            scores = scores.masked_fill(k_first // sizes[1] == on_diagonal, torch.inf)
        usable = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        best = usable.sort(dim=-1, descending=True, stable=True)
        indices = torch.where(best.values > -torch.inf, best.indices, -1)[..., :k]
        return cls.from_indices(
            None, indices, sizes, q_len=q_len, kv_len=kv_len, kv_blocks=kv_blocks
        )

    @classmethod
    def cumulative_mass(
        cls,
        scores: Tensor,
        p: float,
        *,
        softmax: bool = True,
        block_size: BlockSize = 128,
        q_len: int | None = None,
        kv_len: int | None = None,
    ) -> Self:
        """The fewest key blocks of every query block that hold a share p of its attention mass.
        Block-granular (the selection rule of XAttention, arXiv 2503.16428).

        Args:
            scores: float [batch | 1, heads, q_blocks, kv_blocks]; -inf and NaN hold no mass.
            p: share in [0, 1]; 0 selects nothing, 1 every block that has mass.
            softmax: True: a block's mass is the softmax of its score over the row; False: the score
                itself, >= 0, over the row's sum.

        Raises:
            TypeError, ValueError: a dtype, shape or number that breaks these rules.
        """
        sizes, scores = _checked_scores(scores, block_size, q_len, kv_len)
        share = checked_fraction("p", p)
        batch, heads, q_blocks, kv_blocks = scores.shape
        built = build(
            "mass",
            (batch, heads, q_blocks, kv_blocks),
            (kv_blocks, 0),
            (scores,),
            (share, softmax),
        )
        if built is not None:
            return cls._of_lists(built, sizes, q_len, kv_len, kv_blocks)
        # inf as the greatest number, so that masses add up.
        greatest = torch.finfo(torch.float32).max
        usable = scores.float().nan_to_num(nan=-torch.inf, posinf=greatest, neginf=-torch.inf)
        if softmax:
            # A share needs no division by the sum; the best block's mass is 1.
            best = usable.amax(-1, keepdim=True) if kv_blocks else usable
            mass = (usable - best).nan_to_num(nan=-torch.inf, neginf=-torch.inf).exp()
            if share >= 1.0:
                mass = (usable > -torch.inf).float()  # all with a mass in exact arithmetic
        else:
            mass = usable.clamp(min=0.0)
            require(
                (usable >= 0) | (usable == -torch.inf),
                "scores: must be >= 0 where softmax=False. Pass softmax=True for logits.",
            )
        ordered, order = mass.sort(dim=-1, descending=True, stable=True)
        exact = ordered.double()
        taken = ordered > 0
        if share < 1.0:  # at 1 rounding in the sum must not drop the last small ones
            before = exact.cumsum(-1) - exact
            wanted = share * exact.sum(-1, keepdim=True)
            # A p > 0 asks for the heaviest block, however small the product.
            least = torch.finfo(torch.float64).tiny if share > 0.0 else 0.0
            taken = taken & (before < wanted.clamp(min=least))
        mask = torch.zeros_like(taken).scatter_(-1, order, taken)
        return cls.from_dense(mask, sizes, q_len=q_len, kv_len=kv_len)

    @staticmethod
    def pooled_scores(
        Q: Tensor,
        K: Tensor,
        pool: str = "mean",
        *,
        block_size: BlockSize = 128,
        scale: float | None = None,
        is_causal: bool | str = False,
        per_kv_head: bool = False,
    ) -> Tensor:
        """Block scores: pooled queries times pooled keys, times scale.

        With "mean" a score is the mean of the scaled q.k over all pairs of the two blocks; with
        "max" both sides are pooled by the largest value of every channel. Ragged blocks pool over
        the rows that are there.

        Args:
            Q: [batch, q_heads, q_len, head_dim]; K: [batch, kv_heads, kv_len, head_dim], kv_heads
                dividing q_heads.
            is_causal: False, True / "upper_left" or "lower_right": -inf for blocks wholly beyond
                the diagonal.
            per_kv_head: the mean over the query heads that share a KV head, so that a mask of the
                scores serves the whole group.

        Returns:
            fp32 [batch, q_heads (kv_heads if per_kv_head), q_blocks, kv_blocks].

        Raises:
            TypeError, ValueError: a dtype, shape, device or name that breaks these rules.
        """
        block_q, block_k = checked_block_size(block_size)
        checked_tensor("Q", Q, _FLOATS)
        checked_tensor("K", K, _FLOATS)
        checked_same_device("Q", Q, "K", K)
        if Q.dim() != 4 or K.dim() != 4 or Q.shape[0] != K.shape[0] or Q.shape[3] != K.shape[3]:
            rule = "must be [batch, q_heads, q_len, head_dim] and [batch, kv_heads, kv_len, ...]"
            got = f"{tuple(Q.shape)} and {tuple(K.shape)}"
            raise ValueError(problem("Q, K", rule, got, "Give both the same batch and head_dim."))
        _, q_heads, q_len, head_dim = Q.shape
        kv_heads, kv_len = K.shape[1], K.shape[2]
        if kv_heads == 0 or q_heads % kv_heads:
            rule = f"its heads must divide the {q_heads} heads of Q"
            raise ValueError(problem("K", rule, kv_heads, "Group the queries evenly."))
        if pool not in ("mean", "max"):
            rule = "must be 'mean' or 'max'"
            raise ValueError(problem("pool", rule, repr(pool), "Choose one of them."))
        factor = head_dim**-0.5 if scale is None else scale
        offset = None
        if is_causal is not False:
            align = "upper_left" if is_causal is True else is_causal
            offset = _diagonal_offset(align, q_len, kv_len, "is_causal")
        sizes = (block_q, block_k)
        done = block_scores(Q, K, sizes, pool == "max", factor, per_kv_head, offset)
        if done is not None:
            return done
        pooled_q = pooled(Q, block_q, pool)
        pooled_q = pooled_q.view(Q.shape[0], kv_heads, q_heads // kv_heads, *pooled_q.shape[2:])
        scores = (pooled_q @ pooled(K, block_k, pool).unsqueeze(2).transpose(-1, -2)) * factor
        scores = scores.mean(2) if per_kv_head else scores.flatten(1, 2)
        if offset is not None:
            (_, q_last), (k_first, _) = edges(q_len, kv_len, sizes, Q.device)
            scores = scores.masked_fill(k_first > q_last + offset, -torch.inf)
        return scores

    @classmethod
    def strided(
        cls,
        q_len: int,
        kv_len: int,
        stride: int,
        local: int = 1,
        *,
        causal: bool = True,
        align: str = "lower_right",
        block_size: BlockSize = 128,
        device: Device = None,
    ) -> Self:
        """Near blocks and every stride-th block before (Sparse Transformers, arXiv 1904.10509).
        Block-granular: combine with `is_causal` for an exact diagonal.

        Args:
            stride: >= 1; key blocks at a distance of 0, stride, 2 * stride, ... are computed, in
                blocks counted from those that hold the query block's diagonal (distance 0).
            local: also all blocks at a distance below it.
            causal: False = on both sides of the diagonal.

        Raises:
            TypeError, ValueError: a number below its least, an unknown `align`.
        """
        sizes = checked_block_size(block_size)
        _checked_two_lengths(q_len, kv_len)
        stride = min(checked_int("stride", stride, 1), _FAR)
        local = min(checked_int("local", local, 0), _FAR)
        offset = _diagonal_offset(align, q_len, kv_len)
        kv_blocks = ceil_div(kv_len, sizes[1])
        built = build(
            "strided",
            (1, 1, ceil_div(q_len, sizes[0]), kv_blocks),
            (kv_blocks, 0),
            numbers=(offset, stride, local, causal),
            block_size=sizes,
            lengths=(q_len, kv_len),
            device=device,
        )
        if built is not None:
            return cls._of_lists(built, sizes, q_len, kv_len, kv_blocks)
        (q_first, q_last), (k_first, _) = edges(q_len, kv_len, sizes, device)
        block = k_first // sizes[1]
        low = torch.div(q_first + offset, sizes[1], rounding_mode="floor")
        high = torch.div(q_last + offset, sizes[1], rounding_mode="floor")
        before = (low - block).clamp(min=0)
        after = (block - high).clamp(min=0)
        distance = before + after
        mask = (distance % stride == 0) | (distance < local)
        if causal:
            mask = mask & (after == 0)
        return cls.from_dense(mask, sizes, q_len=q_len, kv_len=kv_len)

    @classmethod
    def random(
        cls,
        q_len: int,
        kv_len: int,
        density: float,
        *,
        batch: int = 1,
        heads: int = 1,
        diagonal: bool = False,
        generator: torch.Generator | None = None,
        block_size: BlockSize = 128,
        device: Device = None,
    ) -> Self:
        """Random key blocks, the same number in every row: for tests and benchmarks.

        Args:
            density: in [0, 1]; every query block has round(density * kv_blocks) key blocks.
            batch, heads: an independent pattern for each.
            diagonal: always take the block of the lower-right diagonal, if any block is taken.
            generator: of the same device, for repeatable patterns.

        Raises:
            TypeError, ValueError: a number out of its range.
        """
        sizes = checked_block_size(block_size)
        _checked_two_lengths(q_len, kv_len)
        share = checked_fraction("density", density)
        checked_int("batch", batch, 0)
        checked_int("heads", heads, 1)
        q_blocks, kv_blocks = ceil_div(q_len, sizes[0]), ceil_div(kv_len, sizes[1])
        place = device if device is not None or generator is None else generator.device
        shape = (batch, heads, q_blocks, kv_blocks)
        scores = torch.rand(shape, generator=generator, device=place)
        k = round(share * kv_blocks)
        return cls._top_k(scores, k, sizes, q_len, kv_len, diagonal_first=diagonal)


def _checked_two_lengths(q_len: int, kv_len: int) -> None:
    checked_int("q_len", q_len, 0)
    checked_int("kv_len", kv_len, 0)


def _diagonal_offset(align: object, q_len: int, kv_len: int, argument: str = "align") -> int:
    if align not in _ALIGNMENTS:
        rule = f"must be one of {_ALIGNMENTS}"
        remedy = "lower_right: the last query's diagonal is the last key."
        raise ValueError(problem(argument, rule, repr(align), remedy))
    return kv_len - q_len if align == "lower_right" else 0


def _checked_scores(
    scores: Tensor, block_size: BlockSize, q_len: int | None, kv_len: int | None
) -> tuple[tuple[int, int], Tensor]:
    sizes = checked_block_size(block_size)
    scores = checked_rank4("scores", checked_tensor("scores", scores, _FLOATS), "kv_blocks")
    checked_lengths(sizes, scores.shape[2], scores.shape[3], q_len, kv_len, "scores")
    # A choice has no gradient; fp64 scores are compared as fp32.
    scores = scores.detach() if scores.requires_grad else scores
    return sizes, scores.float() if scores.dtype == torch.float64 else scores
