"""What a call keeps of a mask: its lists are read once, and follow whatever happens to the mask."""

from __future__ import annotations

import copy
import io
import pickle
import weakref

import numpy as np
import pytest
import torch

from blackwell_sparsek import _C, BlockMask, attention, attention_forward
from blackwell_sparsek._block_mask_base import BlockMaskBase

torch.manual_seed(0)
Q, K, V = (torch.randn(1, 2, 256, 16) for _ in range(3))
FIRST = torch.tensor([[True, False], [True, True]])
SECOND = torch.tensor([[False, True], [True, False]])


def attend(mask: BlockMask) -> torch.Tensor:
    return attention_forward(Q, K, V, block_mask=mask)


def expected(dense: torch.Tensor) -> torch.Tensor:
    pairs = dense.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return attention_forward(Q, K, V, attn_mask=pairs)


@pytest.fixture
def mask() -> BlockMask:
    mask = BlockMask.from_dense(FIRST)
    torch.testing.assert_close(attend(mask), expected(FIRST))
    return mask


def test_the_lists_are_prepared_once(mask: BlockMask, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(self: BlockMask) -> object:
        raise AssertionError("prepared again")

    monkeypatch.setattr(BlockMask, "_prepare", again)
    attend(mask)


def test_contents_that_change_in_place_are_seen(mask: BlockMask) -> None:
    mask.update_(SECOND[None, None])
    torch.testing.assert_close(attend(mask), expected(SECOND))


def test_lists_that_are_assigned_are_seen(mask: BlockMask) -> None:
    other = BlockMask.from_dense(SECOND)
    mask.full_counts, mask.full_indices = other.full_counts, other.full_indices
    torch.testing.assert_close(attend(mask), expected(SECOND))


def test_partial_blocks_that_are_assigned_are_seen(mask: BlockMask) -> None:
    window = BlockMask.sliding_window(256, 256, 40)
    attend(mask)
    for name in BlockMaskBase.__slots__:
        if name != "_prepared":
            setattr(mask, name, getattr(window, name))
    assert torch.equal(attend(mask), attend(window))


def test_memory_stays_while_a_mask_needs_it(mask: BlockMask) -> None:
    """A list made to point elsewhere leaves its memory to the mask: never freed memory."""
    before = attend(mask)
    mask.full_indices.data = torch.zeros(0, dtype=torch.int32)
    junk = [torch.full((1, 1, 2, 2), 77, dtype=torch.int32) for _ in range(50)]
    assert torch.equal(attend(mask), before)
    del junk


def test_memory_stays_while_a_call_reads_it(mask: BlockMask) -> None:
    """Another thread may assign a list while a call, which holds no lock, reads the old one."""
    array = np.array([[[1, 2]]], np.int32)
    mask.full_counts = torch.from_numpy(array)
    memory = weakref.ref(array)
    del array
    attend(mask)
    lives: list[bool] = []

    def threads() -> int:  # asked by a call that has read its arguments
        mask.full_counts = torch.zeros(1, 1, 2, dtype=torch.int32)
        lives.append(memory() is not None)
        return 1

    _C.set_sources(threads, attention._device_properties, attention._current_stream)
    try:
        result = attend(mask)
    finally:
        attention.set_sources()
    assert lives == [True] and memory() is None
    torch.testing.assert_close(result, expected(FIRST))


def test_lengths_are_checked_in_every_call() -> None:
    bound = BlockMask.from_dense(FIRST, q_len=256, kv_len=256)
    attend(bound)
    for q_len, kv_len in ((255, 256), (256, 255), (256, 400)):
        with pytest.raises(ValueError, match="block_mask: was made for"):
            attention_forward(
                Q[:, :, :q_len], K.repeat(1, 1, 2, 1)[:, :, :kv_len], V, block_mask=bound
            )
    with pytest.raises(ValueError, match="covers 2 key blocks"):
        more = K.repeat(1, 1, 2, 1)
        attention_forward(Q, more, more, block_mask=BlockMask.from_dense(FIRST))


def test_a_mask_on_another_device_is_refused(mask: BlockMask) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        attend(mask.to("meta"))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_of_a_mask_that_was_used(mask: BlockMask, how: str) -> None:
    if how == "deepcopy":
        twin = copy.deepcopy(mask)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(mask))
    else:
        file = io.BytesIO()
        torch.save(mask, file)
        file.seek(0)
        twin = torch.load(file, weights_only=True)
    twin.update_(SECOND[None, None])
    torch.testing.assert_close(attend(twin), expected(SECOND))
    torch.testing.assert_close(attend(mask), expected(FIRST))


def test_what_is_no_mask_is_named() -> None:
    for wrong in (FIRST, "mask", object()):
        with pytest.raises(TypeError, match="block_mask: must be a blackwell_sparsek.BlockMask"):
            attention_forward(Q, K, V, block_mask=wrong)
