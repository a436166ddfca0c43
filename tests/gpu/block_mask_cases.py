"""Block masks of every builder from a seed, on any device: what two devices must agree on."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from blackwell_sparsek.block_mask import BlockMask

Case = Callable[[torch.device], BlockMask]

_WIDTHS = (1, 7, 31, 32, 33, 64, 100, 127, 128, 129, 200, 512)
_LENGTHS = (1, 17, 64, 100, 128, 129, 300, 555, 640, 1000)
SIZES = ((64, 64), (128, 128), (128, 64), (64, 128), (128, 32), (64, 16), (128, 16), (64, 32))


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.randrange(1 << 40))


def _rows(rng: random.Random) -> tuple[int, int, int]:
    return rng.choice((1, 1, 2)), rng.choice((1, 2, 5)), rng.choice((1, 3, 6))


def _dense(rng: random.Random) -> Case:
    generator = _generator(rng)
    shape = (*_rows(rng), rng.choice(_WIDTHS))
    density = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    mask = torch.rand(shape, generator=generator) < density
    layout = rng.choice(("contiguous", "broadcast", "transposed", "sliced"))

    def build(device: torch.device) -> BlockMask:
        there = mask.to(device)
        if layout == "broadcast":
            there = there[:, :1].expand(shape)
        elif layout == "transposed":
            there = there.transpose(2, 3).contiguous().transpose(2, 3)
        elif layout == "sliced":
            there = torch.cat([there, ~there], -1)[..., : shape[3]]
        return BlockMask.from_dense(there, rng_size)

    rng_size = rng.choice(SIZES)
    return build


def _scores(rng: random.Random, widths: tuple[int, ...]) -> Tensor:
    scores = torch.randn((*_rows(rng), rng.choice(widths)), generator=_generator(rng))
    kind = rng.choice(("plain", "ties", "flat", "holes", "extremes"))
    if kind == "ties":
        scores = (scores * 2).round() / 2  # with 0 and -0
    elif kind == "flat":
        scores = torch.zeros_like(scores)
    elif kind == "holes":
        draw = torch.rand(scores.shape, generator=_generator(rng))
        scores = scores.masked_fill(draw < 0.3, -torch.inf).masked_fill(draw > 0.8, torch.nan)
    elif kind == "extremes":
        draw = torch.rand(scores.shape, generator=_generator(rng))
        scores = scores.masked_fill(draw < 0.1, torch.inf).masked_fill(draw > 0.9, -60000.0)
    return scores.to(rng.choice((torch.float32, torch.float32, torch.float16, torch.bfloat16)))


def _top_k(rng: random.Random) -> Case:
    scores = _scores(rng, (*_WIDTHS, 700, 2048))
    k = rng.choice((0, 1, 3, 14, 31, scores.shape[3] // 2, scores.shape[3], 5000))
    return lambda device: BlockMask.top_k(scores.to(device), k)


def _mass(rng: random.Random) -> Case:
    scores = _scores(rng, (*_WIDTHS, 700, 1024))
    softmax = rng.random() < 0.6
    if not softmax:
        scores = torch.where(scores < 0, -scores, scores)
        scores = scores.masked_fill(scores.isinf(), 3.0)
    p = rng.choice((0.0, 1e-300, 0.1, 0.5, 0.9, 0.99, 1.0))
    return lambda device: BlockMask.cumulative_mass(scores.to(device), p, softmax=softmax)


def _integers(rng: random.Random) -> torch.dtype:
    return rng.choice((torch.int32, torch.int64))


def _lists(rng: random.Random) -> Case:
    batch, heads, q_blocks = _rows(rng)
    kv_blocks, width = rng.choice(_WIDTHS), rng.choice((1, 5, 14, 40, 130))
    generator = _generator(rng)
    shape = (batch, heads, q_blocks, width)
    indices = torch.randint(-1, kv_blocks, shape, generator=generator).to(_integers(rng))
    counts = None
    if rng.random() < 0.5:
        counts = torch.randint(0, width + 1, shape[:3], generator=generator).to(_integers(rng))
        listed = torch.arange(width) < counts.unsqueeze(-1)
        indices = torch.where(listed, indices, 10**6)  # what is not listed may be anything

    def build(device: torch.device) -> BlockMask:
        there = None if counts is None else counts.to(device)
        return BlockMask.from_indices(there, indices.to(device), kv_blocks=kv_blocks)

    return build


def _compressed_rows(rng: random.Random) -> Case:
    batch, heads, q_blocks = _rows(rng)
    kv_blocks = rng.choice(_WIDTHS)
    generator = _generator(rng)
    lengths = torch.randint(0, min(kv_blocks, 9) + 1, (batch, heads, q_blocks), generator=generator)
    indptr = torch.zeros((batch, heads, q_blocks + 1), dtype=torch.int64)
    indptr[..., 1:] = lengths.cumsum(-1)
    entries = int(indptr.max()) + 3
    indices = torch.randint(0, kv_blocks, (batch, heads, entries), generator=generator)
    indptr, indices = indptr.to(_integers(rng)), indices.to(_integers(rng))
    if rng.random() < 0.3:
        indptr, indices = indptr[0, 0], indices[0, 0]
    capacity = rng.choice((None, min(kv_blocks, 9)))
    return lambda device: BlockMask.from_bsr(
        indptr.to(device),
        indices.to(device),
        kv_blocks=kv_blocks,
        max_blocks_per_row=capacity,
    )


def _vertical_slash(rng: random.Random) -> Case:
    q_len, kv_len = rng.choice(_LENGTHS), rng.choice(_LENGTHS)
    generator, sizes = _generator(rng), rng.choice(SIZES)
    leading = (rng.choice((1, 2)), rng.choice((1, 3)))
    vertical = torch.randint(-1, kv_len, (*leading, rng.choice((0, 1, 40))), generator=generator)
    slash = torch.randint(-1, kv_len + 50, (*leading, rng.choice((0, 1, 20))), generator=generator)
    vertical, slash = vertical.to(_integers(rng)), slash.to(_integers(rng))
    align = rng.choice(("lower_right", "upper_left"))
    return lambda device: BlockMask.vertical_slash(
        vertical.to(device),
        slash.to(device),
        q_len=q_len,
        kv_len=kv_len,
        align=align,
        block_size=sizes,
    )


def _window(rng: random.Random) -> Case:
    q_len, kv_len = rng.choice(_LENGTHS), rng.choice(_LENGTHS)
    left, right = rng.choice((-1, 0, 1, 63, 128, 300)), rng.choice((-1, 0, 0, 5, 130, 10**12))
    sink, sizes = rng.choice((0, 0, 1, 64, 100, 2000)), rng.choice(SIZES)
    align = rng.choice(("lower_right", "upper_left"))
    return lambda device: BlockMask.sliding_window(
        q_len, kv_len, left, right, sink, align=align, block_size=sizes, device=device
    )


def _strided(rng: random.Random) -> Case:
    q_len, kv_len = rng.choice(_LENGTHS), rng.choice(_LENGTHS)
    stride, local = rng.choice((1, 2, 3, 7)), rng.choice((0, 1, 2, 4))
    causal, sizes = rng.random() < 0.5, rng.choice(SIZES)
    align = rng.choice(("lower_right", "upper_left"))
    return lambda device: BlockMask.strided(
        q_len,
        kv_len,
        stride,
        local,
        causal=causal,
        align=align,
        block_size=sizes,
        device=device,
    )


def _segments(rng: random.Random) -> Case:
    length, sizes = rng.choice(_LENGTHS), rng.choice(SIZES)
    end = length if rng.random() < 0.6 else rng.randrange(length + 1)
    inner = sorted(rng.randrange(end + 1) for _ in range(rng.choice((0, 1, 4, 30))))
    boundaries = torch.tensor([0, *inner, end] if rng.random() < 0.95 else [0])
    boundaries = boundaries.to(_integers(rng))
    longest = int((boundaries[1:] - boundaries[:-1]).max()) if len(boundaries) > 1 else 1
    bound = rng.choice((None, max(longest, 1)))
    return lambda device: BlockMask.document(
        cu_seqlens=boundaries.to(device), q_len=length, max_document_len=bound, block_size=sizes
    )


def _ids(rng: random.Random) -> Case:
    length, sizes, batch = rng.choice(_LENGTHS), rng.choice(SIZES), rng.choice((1, 2))
    ids = torch.randint(-1, rng.choice((1, 4, 30)), (batch, length), generator=_generator(rng))
    if rng.random() < 0.7:
        ids = ids.sort(-1).values
    if rng.random() < 0.3:
        ids = ids.clamp(min=0)
    ids = ids.to(_integers(rng))
    return lambda device: BlockMask.document(ids.to(device), block_size=sizes)


BUILDERS: dict[str, Callable[[random.Random], Case]] = {
    "dense": _dense,
    "top_k": _top_k,
    "mass": _mass,
    "lists": _lists,
    "compressed_rows": _compressed_rows,
    "vertical_slash": _vertical_slash,
    "window": _window,
    "strided": _strided,
    "segments": _segments,
    "ids": _ids,
}


def case(builder: str, seed: int) -> Case:
    return BUILDERS[builder](random.Random(f"{builder} {seed}"))


def assert_same(mask: BlockMask, expected: BlockMask) -> None:
    """Equal in everything that a mask means: the listed entries and the bits of listed blocks."""
    assert (mask.block_size, mask.q_len, mask.kv_len, mask.kv_blocks) == (
        expected.block_size,
        expected.q_len,
        expected.kv_len,
        expected.kv_blocks,
    )
    for kind in ("full", "partial"):
        counts, indices = getattr(mask, f"{kind}_counts"), getattr(mask, f"{kind}_indices")
        wanted_counts = getattr(expected, f"{kind}_counts")
        wanted_indices = getattr(expected, f"{kind}_indices")
        assert (counts is None) == (wanted_counts is None), kind
        if counts is None:
            continue
        assert counts.dtype == indices.dtype == torch.int32
        assert torch.equal(counts.cpu(), wanted_counts), kind
        assert indices.shape == wanted_indices.shape, kind
        listed = torch.arange(indices.shape[-1]) < wanted_counts.unsqueeze(-1)
        assert torch.equal(indices.cpu()[listed], wanted_indices[listed]), kind
        if kind == "partial":
            assert mask.partial_bits is not None and expected.partial_bits is not None
            assert mask.partial_bits.shape == expected.partial_bits.shape
            assert torch.equal(mask.partial_bits.cpu()[listed], expected.partial_bits[listed])
