"""Every constructor of BlockMask means what its dense form says."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from blackwell_sparsek.block_mask import BlockMask

SIZES = [(q, k) for q in (64, 128) for k in (16, 32, 64, 128)]


def random_dense(seed: int, shape: tuple[int, ...], density: float) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


dense_masks = st.builds(
    random_dense,
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 5), st.integers(0, 9)),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
)


def assert_lists_are_canonical(mask: BlockMask) -> None:
    """Counts in range, indices ascending and in range, contiguous int32."""
    for counts, indices in (
        (mask.full_counts, mask.full_indices),
        (mask.partial_counts, mask.partial_indices),
    ):
        if counts is None:
            continue
        assert counts.dtype == indices.dtype == torch.int32
        assert counts.is_contiguous() and indices.is_contiguous()
        for row_count, row in zip(counts.flatten(), indices.flatten(0, 2), strict=True):
            listed = row[:row_count].tolist()
            assert listed == sorted(set(listed))
            assert all(0 <= block < mask.kv_blocks for block in listed)


@given(dense_masks)
@settings(max_examples=60, deadline=None)
def test_from_dense_round_trip(dense: torch.Tensor) -> None:
    mask = BlockMask.from_dense(dense)
    assert_lists_are_canonical(mask)
    assert mask.shape == tuple(dense.shape)
    assert torch.equal(mask.to_dense(), dense)
    expected = dense.float().mean().item() if dense.numel() else 0.0
    assert mask.density() == pytest.approx(expected)
    assert mask.partial_counts is None


@given(dense_masks, st.integers(0, 2**31), st.integers(0, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_from_indices_sorts_deduplicates_and_drops_pads(
    dense: torch.Tensor, seed: int, extra: int, give_counts: bool
) -> None:
    """Any order, repeats and pads of the same set give the same mask."""
    generator = torch.Generator().manual_seed(seed)
    width = dense.shape[-1] + extra
    indices = torch.full((*dense.shape[:3], width), -1)
    counts = torch.zeros(dense.shape[:3], dtype=torch.int64)
    for position in torch.cartesian_prod(*(torch.arange(n) for n in dense.shape[:3])).tolist():
        blocks = dense[tuple(position)].nonzero().flatten()
        if len(blocks):
            again = torch.randint(0, len(blocks), (extra,), generator=generator)
            blocks = torch.cat([blocks, blocks[again]])
        row = torch.full((width,), -1)
        row[: len(blocks)] = blocks
        if give_counts:
            # The listed part in any order; beyond it, rubbish that must not be looked at.
            row[: len(blocks)] = row[: len(blocks)][torch.randperm(len(blocks))]
            row[len(blocks) :] = 0
            counts[tuple(position)] = len(blocks)
        else:
            row = row[torch.randperm(width, generator=generator)]
        indices[tuple(position)] = row
    mask = BlockMask.from_indices(
        counts if give_counts else None, indices.int(), kv_blocks=dense.shape[-1]
    )
    assert_lists_are_canonical(mask)
    assert torch.equal(mask.to_dense(), dense)


@given(dense_masks, st.booleans())
@settings(max_examples=60, deadline=None)
def test_from_bsr(dense: torch.Tensor, tight: bool) -> None:
    batch, heads, q_blocks, kv_blocks = dense.shape
    rows = dense.sum(-1)
    indptr = torch.nn.functional.pad(rows.cumsum(-1), (1, 0))
    longest = int(indptr[..., -1].max())
    indices = torch.zeros((batch, heads, longest), dtype=torch.int64)
    for b in range(batch):
        for h in range(heads):
            # Descending within a row: BSR does not promise an order.
            parts = [dense[b, h, r].nonzero().flatten().flip(0) for r in range(q_blocks)]
            flat = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
            indices[b, h, : len(flat)] = flat
    width = int(rows.max()) if tight and rows.numel() else None
    mask = BlockMask.from_bsr(indptr, indices, kv_blocks=kv_blocks, max_blocks_per_row=width)
    assert_lists_are_canonical(mask)
    assert torch.equal(mask.to_dense(), dense)
    if batch == heads == 1:
        flat_mask = BlockMask.from_bsr(indptr[0, 0], indices[0, 0], kv_blocks=kv_blocks)
        assert torch.equal(flat_mask.to_dense(), dense)


MODS = {
    "causal": lambda doc: lambda b, h, q, k: q >= k,
    "document": lambda doc: lambda b, h, q, k: doc[q] == doc[k],
    "per_head": lambda doc: lambda b, h, q, k: (q - k).abs() <= 40 * (h + 1) + 100 * b,
    "document_causal_prefix": lambda doc: (
        lambda b, h, q, k: ((doc[q] == doc[k]) & (q >= k)) | (k < 7)
    ),
    "nothing": lambda doc: lambda b, h, q, k: q < 0,
    "everything": lambda doc: lambda b, h, q, k: q >= 0,
}


@pytest.mark.parametrize("name", MODS)
@pytest.mark.parametrize("block_size", [(64, 64), (128, 128), (128, 32), (64, 16)])
@pytest.mark.parametrize(("q_len", "kv_len"), [(256, 256), (300, 300), (130, 333)])
def test_from_flex_equals_its_mask_mod(
    name: str, block_size: tuple[int, int], q_len: int, kv_len: int
) -> None:
    doc = torch.arange(max(q_len, kv_len)) // 77
    mod = MODS[name](doc)
    flex = create_block_mask(mod, 2, 3, q_len, kv_len, device="cpu", BLOCK_SIZE=block_size)
    mask = BlockMask.from_flex(flex)
    b = torch.arange(2).view(2, 1, 1, 1)
    h = torch.arange(3).view(1, 3, 1, 1)
    expected = mod(b, h, torch.arange(q_len).view(-1, 1), torch.arange(kv_len))
    assert_lists_are_canonical(mask)
    assert torch.equal(mask.to_dense_mask(), expected.expand(2, 3, q_len, kv_len))
    assert (mask.q_len, mask.kv_len, mask.block_size) == (q_len, kv_len, block_size)


def test_from_flex_keeps_full_blocks_full() -> None:
    flex = create_block_mask(lambda b, h, q, k: q >= k, None, None, 512, 512, device="cpu")
    mask = BlockMask.from_flex(flex)
    assert mask.full_counts.flatten().tolist() == [0, 1, 2, 3]
    assert mask.partial_counts.flatten().tolist() == [1, 1, 1, 1]


def test_from_flex_without_mask_mod_has_full_blocks_only() -> None:
    from torch.nn.attention.flex_attention import BlockMask as FlexBlockMask

    counts = torch.tensor([[[2, 1]]], dtype=torch.int32)
    indices = torch.tensor([[[[1, 0, 0], [2, 0, 0]]]], dtype=torch.int32)
    flex = FlexBlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=64, seq_lengths=(128, 190))
    mask = BlockMask.from_flex(flex)
    assert mask.partial_counts is None
    assert mask.to_dense().tolist() == [[[[True, True, False], [False, False, True]]]]


def test_from_flex_max_partial_blocks_is_a_checked_promise() -> None:
    flex = create_block_mask(lambda b, h, q, k: q >= k, None, None, 512, 512, device="cpu")
    mask = BlockMask.from_flex(flex, max_partial_blocks=1)
    assert mask.partial_bits.shape[3] == 1
    assert torch.equal(mask.to_dense_mask(), torch.ones(1, 1, 512, 512).tril().bool())
    wide = create_block_mask(lambda b, h, q, k: (q + k) % 2 == 0, None, None, 512, 512, "cpu")
    with pytest.raises(ValueError, match="at most 2 blocks"):
        BlockMask.from_flex(wide, max_partial_blocks=2)
    with pytest.raises(ValueError, match="at most 0 blocks"):
        BlockMask.from_flex(wide, max_partial_blocks=0)


def test_from_fa4_lists() -> None:
    """Mask blocks get the rule, full blocks do not, also where a block is listed as both."""
    mask_counts = torch.tensor([[[2, 1]]], dtype=torch.int32)
    mask_indices = torch.tensor([[[[2, 0, 1], [1, 0, 0]]]], dtype=torch.int32)
    full_counts = torch.tensor([[[1, 1]]], dtype=torch.int32)
    full_indices = torch.tensor([[[[1, 0, 0], [1, 0, 0]]]], dtype=torch.int32)

    def rule(b, h, q, k):
        return (q + k) % 3 == 0

    mask = BlockMask.from_fa4(
        mask_counts,
        mask_indices,
        full_counts,
        full_indices,
        q_len=200,
        kv_len=300,
        mask_mod=rule,
    )
    q, k = torch.arange(200).view(-1, 1), torch.arange(300)
    full = (k // 128 == 1).expand(200, 300)
    partial = ((q < 128) & (k // 128 != 1)) & rule(0, 0, q, k)
    assert torch.equal(mask.to_dense_mask()[0, 0], full | partial)


@given(dense_masks, st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_update_replaces_the_contents_of_the_same_buffers(dense: torch.Tensor, seed: int) -> None:
    mask = BlockMask.from_dense(dense)
    pointers = (mask.full_counts.data_ptr(), mask.full_indices.data_ptr())
    other = random_dense(seed, tuple(dense.shape), 0.4)
    assert mask.update_(other) is mask
    assert torch.equal(mask.to_dense(), other)
    assert pointers == (mask.full_counts.data_ptr(), mask.full_indices.data_ptr())


def test_update_of_a_mask_with_partial_blocks_and_of_a_narrow_one() -> None:
    window = BlockMask.sliding_window(512, 512, 100)
    everything = torch.ones(window.shape, dtype=torch.bool)
    window.update_(everything)
    assert window.to_dense_mask().all()
    narrow = BlockMask.from_indices(None, torch.zeros((1, 1, 4, 2), dtype=torch.int32), kv_len=512)
    with pytest.raises(ValueError, match="at most 2 blocks"):
        narrow.update_(everything)
    assert narrow.density() == 0.25, "a refused update leaves the mask as it was"


@pytest.mark.parametrize("block_size", SIZES)
def test_dense_mask_of_partial_bits(block_size: tuple[int, int]) -> None:
    """The layout of the bits, written down once by hand: bit j % 8 of byte j / 8 is key j."""
    block_q, block_k = block_size
    bits = torch.zeros((1, 1, 1, 1, block_q, block_k // 8), dtype=torch.uint8)
    bits[..., 3, 0] = 0b00000101  # query 3: keys 0 and 2
    bits[..., block_q - 1, block_k // 8 - 1] = 0b10000000  # last query: last key
    one = torch.ones((1, 1, 1), dtype=torch.int32)
    mask = BlockMask(
        torch.zeros_like(one),
        torch.zeros((1, 1, 1, 1), dtype=torch.int32),
        one,
        torch.ones((1, 1, 1, 1), dtype=torch.int32),
        bits,
        block_size=block_size,
        kv_blocks=2,
    )
    expected = torch.zeros((block_q, 2 * block_k), dtype=torch.bool)
    expected[3, block_k] = expected[3, block_k + 2] = expected[-1, -1] = True
    assert torch.equal(mask.to_dense_mask()[0, 0], expected)


def test_native_tuple_shape_repr_and_copies() -> None:
    mask = BlockMask.sliding_window(300, 500, 64, block_size=(64, 32))
    block_q, block_k, *tensors = mask._native(300, 500)
    assert (block_q, block_k) == (64, 32)
    assert tensors[0] is mask.full_counts and tensors[4] is mask.partial_bits
    assert mask.shape == (1, 1, 5, 16)
    assert mask.to("cpu") is mask
    text = repr(mask)
    for part in ("q_blocks=5", "kv_blocks=16", "(64, 32)", "q_len=300", "kv_len=500", "cpu"):
        assert part in text
    assert torch.equal(copy.deepcopy(mask).to_dense_mask(), mask.to_dense_mask())


def test_to_another_device_keeps_everything() -> None:
    mask = BlockMask.sliding_window(300, 500, 64).to("meta")
    assert mask.device.type == "meta"
    assert (mask.q_len, mask.kv_len, mask.shape) == (300, 500, (1, 1, 3, 4))
    assert mask.partial_bits is not None and mask.partial_bits.device.type == "meta"


def test_a_two_dimensional_mask_is_for_every_batch_and_head() -> None:
    dense = random_dense(0, (3, 4), 0.5)
    assert torch.equal(BlockMask.from_dense(dense).to_dense()[0, 0], dense)


def test_a_broadcast_view_is_taken_as_it_looks() -> None:
    dense = random_dense(0, (1, 1, 3, 4), 0.5).expand(2, 5, 3, 4)
    assert torch.equal(BlockMask.from_dense(dense).to_dense(), dense)


def test_picture_and_text() -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    mask = BlockMask.random(1024, 1024, 0.25, heads=3, generator=torch.Generator().manual_seed(0))
    figure = mask.plot(head=2)
    assert isinstance(figure, figure_module.Figure)
    drawn = figure.axes[0].images[0].get_array()
    assert (torch.as_tensor(drawn) > 0).sum() == mask.row_counts()[0, 2].sum()
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert heights == pytest.approx([0.25] * 3)
    with pytest.raises(ValueError, match=r"head: must be below the mask's 3; got 3"):
        mask.plot(head=3)


def test_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"blackwell-sparsek\[plot\]"):
        BlockMask.from_dense(random_dense(0, (2, 2), 0.5)).plot()
