"""Patterns against plain loops over positions, written without the library's arithmetic."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blackwell_sparsek.block_mask import BlockMask

sizes = st.tuples(st.sampled_from([64, 128]), st.sampled_from([16, 32, 64, 128]))
lengths = st.integers(0, 400)


def blocks_of(pairs: torch.Tensor, block_size: tuple[int, int]) -> torch.Tensor:
    """bool [..., q_blocks, kv_blocks]: blocks that hold any of the pairs [..., q_len, kv_len]."""
    block_q, block_k = block_size
    q_len, kv_len = pairs.shape[-2:]
    padded = torch.nn.functional.pad(pairs, (0, -kv_len % block_k, 0, -q_len % block_q))
    tiled = padded.unflatten(-1, (-1, block_k) if kv_len else (0, block_k))
    tiled = tiled.unflatten(-3, (-1, block_q) if q_len else (0, block_q))
    return tiled.any(-1).any(-2)


@given(
    lengths,
    lengths,
    st.integers(-1, 200),
    st.integers(-1, 200),
    st.sampled_from([0, 1, 16, 64, 100, 500]),
    st.sampled_from(["lower_right", "upper_left"]),
    sizes,
)
@settings(max_examples=150, deadline=None)
def test_sliding_window_is_exact(q_len, kv_len, left, right, sink, align, block_size) -> None:
    mask = BlockMask.sliding_window(
        q_len, kv_len, left, right, sink, align=align, block_size=block_size
    )
    diagonal = torch.arange(q_len).view(-1, 1) + (kv_len - q_len if align == "lower_right" else 0)
    key = torch.arange(kv_len)
    near = (key >= diagonal - left) if left >= 0 else torch.ones(q_len, kv_len, dtype=torch.bool)
    expected = near | (key < sink)
    if right >= 0:
        expected = expected & (key <= diagonal + right)
    assert torch.equal(mask.to_dense_mask(q_len, kv_len)[0, 0], expected)
    # Nothing is computed in vain: every block listed holds a pair, every other one holds none.
    assert torch.equal(mask.to_dense()[0, 0], blocks_of(expected, block_size))


def test_numbers_beyond_every_length() -> None:
    far = 10**30
    assert BlockMask.sliding_window(200, 300, far, far, far, block_size=64).to_dense_mask().all()
    once = BlockMask.strided(300, 300, far, local=1, block_size=64).to_dense()
    assert torch.equal(once[0, 0], torch.eye(5, dtype=torch.bool))
    all_before = BlockMask.strided(300, 300, far, local=far, block_size=64).to_dense()
    assert torch.equal(all_before[0, 0], torch.ones(5, 5, dtype=torch.bool).tril())


def test_sliding_window_is_mostly_full_blocks_with_few_bits() -> None:
    mask = BlockMask.sliding_window(4096, 4096, 1024, block_size=128)
    assert int(mask.full_counts.max()) == 7
    assert mask.partial_indices.shape[-1] <= 4


def random_ids(seed: int, batch: int, length: int, documents: int, ascending: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, documents, (batch, length), generator=generator)
    return ids.sort(-1).values if ascending else ids


@given(
    st.integers(0, 2**31),
    st.integers(1, 2),
    st.integers(0, 400),
    st.integers(1, 5),
    st.booleans(),
    sizes,
)
@settings(max_examples=80, deadline=None)
def test_document_ids_are_exact(seed, batch, length, documents, ascending, block_size) -> None:
    ids = random_ids(seed, batch, length, documents, ascending)
    mask = BlockMask.document(ids, block_size=block_size)
    expected = (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] >= 0)
    assert torch.equal(mask.to_dense_mask()[:, 0], expected)
    if ascending and not (ids < 0).any():
        assert torch.equal(mask.to_dense()[:, 0], blocks_of(expected, block_size))


@given(
    st.lists(st.integers(0, 150), min_size=0, max_size=6),
    st.integers(0, 90),
    st.booleans(),
    sizes,
)
@settings(max_examples=80, deadline=None)
def test_cu_seqlens_are_exact(documents, padding, bounded, block_size) -> None:
    bounds = [0, *itertools.accumulate(documents)]
    q_len = bounds[-1] + padding
    expected = torch.zeros((q_len, q_len), dtype=torch.bool)
    for first, last in itertools.pairwise(bounds):
        expected[first:last, first:last] = True
    mask = BlockMask.document(
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        q_len=q_len,
        max_document_len=max(documents, default=1) or 1 if bounded else None,
        block_size=block_size,
    )
    assert torch.equal(mask.to_dense_mask()[0, 0], expected)


def test_max_document_len_bounds_memory_and_is_checked() -> None:
    cu_seqlens = torch.arange(0, 8193, 256, dtype=torch.int32)
    bounded = BlockMask.document(cu_seqlens=cu_seqlens, q_len=8192, max_document_len=256)
    free = BlockMask.document(cu_seqlens=cu_seqlens, q_len=8192)
    assert bounded.partial_bits.numel() * 8 < free.partial_bits.numel()
    odd = torch.tensor([0, 5, 700, 1024])
    with pytest.raises(ValueError, match="max_document_len"):
        BlockMask.document(cu_seqlens=odd, q_len=1024, max_document_len=4)


@given(
    st.integers(0, 2**31),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(0, 4),
    st.integers(0, 4),
    sizes,
)
@settings(max_examples=100, deadline=None)
def test_vertical_slash_takes_every_block_touched(
    seed, q_len, kv_len, columns, diagonals, block_size
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vertical = torch.randint(-1, kv_len, (2, 3, columns), generator=generator)
    slash = torch.randint(-1, q_len + kv_len, (2, 3, diagonals), generator=generator)
    mask = BlockMask.vertical_slash(
        vertical, slash, q_len=q_len, kv_len=kv_len, block_size=block_size
    )
    key = torch.arange(kv_len)
    diagonal = torch.arange(q_len).view(-1, 1) + kv_len - q_len
    on_column = (vertical[..., None, None] == key).expand(2, 3, columns, q_len, kv_len).any(2)
    on_slash = (slash[..., None, None] == diagonal - key) & (slash >= 0)[..., None, None]
    expected = blocks_of(on_column | on_slash.any(2), block_size)
    assert torch.equal(mask.to_dense(), expected)
    assert mask.partial_counts is None


def random_scores(seed: int, shape: tuple[int, ...], holes: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    hole = torch.rand(shape, generator=generator)
    return scores.masked_fill(hole < holes, -torch.inf).masked_fill(hole < holes / 2, torch.nan)


score_shapes = st.tuples(st.just(2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 9))


@given(st.integers(0, 2**31), score_shapes, st.integers(0, 12), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_top_k(seed, shape, k, holes) -> None:
    scores = random_scores(seed, shape, holes)
    chosen = BlockMask.top_k(scores, k).to_dense()
    for row, taken in zip(scores.flatten(0, 2).tolist(), chosen.flatten(0, 2), strict=True):
        candidates = [j for j, score in enumerate(row) if score > -torch.inf]
        best = sorted(candidates, key=lambda j: -row[j])[:k]
        assert taken.nonzero().flatten().tolist() == sorted(best)


@given(
    st.integers(0, 2**31),
    score_shapes,
    st.floats(0, 1),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_cumulative_mass_is_the_smallest_set_that_holds_p(seed, shape, p, holes, softmax) -> None:
    scores = random_scores(seed, shape, holes)
    if not softmax:
        scores = scores.abs().masked_fill(scores.isnan() | (scores == -torch.inf), 0.0)
    chosen = BlockMask.cumulative_mass(scores, p, softmax=softmax).to_dense()
    for row, taken in zip(scores.flatten(0, 2).double(), chosen.flatten(0, 2), strict=True):
        weights = (row - row.nan_to_num(-1e300).max()).exp() if softmax else row.clone()
        weights = weights.nan_to_num(0.0)
        total = weights.sum()
        mass = weights / total if total > 0 else weights * 0
        held = mass[taken].sum().item()
        if total > 0 and p > 0:
            assert held >= p - 1e-5
            assert held - mass[taken].min().item() <= p + 1e-5, "one block less would hold p too"
            if (~taken).any():
                assert mass[taken].min() >= mass[~taken].max() - 1e-7
        else:
            assert held == 0.0 and not taken.any()


def test_a_share_below_the_spacing_of_fp32_selects_the_heaviest_block() -> None:
    scores = torch.tensor([[[[0.0, 2.0, 1.0]]]])
    assert BlockMask.cumulative_mass(scores, 1e-300).to_dense().flatten().tolist() == [
        False,
        True,
        False,
    ]
    assert BlockMask.cumulative_mass(scores, 0.0).density() == 0.0


def test_cumulative_mass_of_one_is_every_block_with_mass() -> None:
    scores = torch.tensor([[[[0.0, -60.0, 5.0, -torch.inf]]]])
    assert BlockMask.cumulative_mass(scores, 1.0).to_dense().flatten().tolist() == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("per_kv_head", [False, True])
@pytest.mark.parametrize("is_causal", [False, True, "upper_left", "lower_right"])
def test_pooled_scores(pool: str, per_kv_head: bool, is_causal: bool | str) -> None:
    generator = torch.Generator().manual_seed(0)
    q_len, kv_len, block_q, block_k = 150, 210, 64, 32
    Q = torch.randn(2, 6, q_len, 16, generator=generator)
    K = torch.randn(2, 2, kv_len, 16, generator=generator)
    scores = BlockMask.pooled_scores(
        Q, K, pool, block_size=(block_q, block_k), is_causal=is_causal, per_kv_head=per_kv_head
    )
    expected = torch.empty(2, 6, 3, 7, dtype=torch.float64)
    offset = kv_len - q_len if is_causal == "lower_right" else 0
    for h, r, c in itertools.product(range(6), range(3), range(7)):
        q = Q[:, h, r * block_q : (r + 1) * block_q].double()
        k = K[:, h // 3, c * block_k : (c + 1) * block_k].double()
        if pool == "mean":  # the mean over all pairs
            value = (q @ k.transpose(-1, -2)).mean((-1, -2))
        else:
            value = (q.amax(1) * k.amax(1)).sum(-1)
        expected[:, h, r, c] = value / 4.0
    if per_kv_head:
        expected = expected.unflatten(1, (2, 3)).mean(2)
    if is_causal is not False:
        for r, c in itertools.product(range(3), range(7)):
            if c * block_k > min((r + 1) * block_q, q_len) - 1 + offset:
                expected[:, :, r, c] = -torch.inf
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5)


@given(lengths, lengths, st.integers(1, 5), st.integers(0, 4), st.booleans(), sizes)
@settings(max_examples=80, deadline=None)
def test_strided(q_len, kv_len, stride, local, causal, block_size) -> None:
    mask = BlockMask.strided(q_len, kv_len, stride, local, causal=causal, block_size=block_size)
    block_q, block_k = block_size
    dense = mask.to_dense()[0, 0]
    for r, c in itertools.product(*(range(n) for n in dense.shape)):
        offset = kv_len - q_len
        diagonal = {
            (i + offset) // block_k for i in range(r * block_q, min((r + 1) * block_q, q_len))
        }
        distance = min(abs(c - d) for d in range(min(diagonal), max(diagonal) + 1))
        expected = distance % stride == 0 or distance < local
        if causal:
            expected = expected and c <= max(diagonal)
        assert bool(dense[r, c]) == expected


@given(st.integers(1, 900), st.integers(1, 900), st.floats(0, 1), st.booleans(), sizes)
@settings(max_examples=60, deadline=None)
def test_random_has_the_same_count_in_every_row(
    q_len, kv_len, density, diagonal, block_size
) -> None:
    def make() -> BlockMask:
        return BlockMask.random(
            q_len,
            kv_len,
            density,
            batch=2,
            heads=2,
            diagonal=diagonal,
            generator=torch.Generator().manual_seed(3),
            block_size=block_size,
        )

    mask = make()
    count = round(density * mask.kv_blocks)
    assert (mask.row_counts() == count).all()
    assert torch.equal(mask.to_dense(), make().to_dense()), "a generator makes it repeatable"
    if diagonal and count:
        for row in range(mask.shape[2]):
            last = min((row + 1) * block_size[0], q_len) - 1 + kv_len - q_len
            assert mask.to_dense()[:, :, row, max(last, 0) // block_size[1]].all()


def test_random_heads_differ() -> None:
    mask = BlockMask.random(2048, 2048, 0.25, heads=2).to_dense()
    assert not torch.equal(mask[0, 0], mask[0, 1])
