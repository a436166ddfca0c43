"""Attention under block masks equals attention under the same mask written out in full."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blackwell_sparsek import BlockMask, attention_forward
from blackwell_sparsek.utils import reference_attention


def expected_attention(Q, K, V, allowed, is_causal=False, window=None):
    """fp64, by plain matrix products; rows without a key are zeros."""
    group = Q.shape[1] // K.shape[1]
    K, V = (t.double().repeat_interleave(group, 1) for t in (K, V))
    q_len, kv_len = Q.shape[2], K.shape[2]
    if allowed.shape[1] not in (1, Q.shape[1]):
        allowed = allowed.repeat_interleave(Q.shape[1] // allowed.shape[1], 1)
    offset = kv_len - q_len if is_causal in (False, "lower_right") else 0
    diagonal = torch.arange(q_len).view(-1, 1) + offset
    key = torch.arange(kv_len)
    if is_causal:
        allowed = allowed & (key <= diagonal)
    if window is not None:
        left, right = window
        allowed = allowed & ((key >= diagonal - left) | (left < 0))
        allowed = allowed & ((key <= diagonal + right) | (right < 0))
    scores = Q.double() @ K.transpose(-1, -2) * Q.shape[-1] ** -0.5
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0)
    return weights @ V


def tensors(seed, batch, q_heads, kv_heads, q_len, kv_len, head_dim=32):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, q_heads, q_len, head_dim, generator=generator),
        torch.randn(batch, kv_heads, kv_len, head_dim, generator=generator),
        torch.randn(batch, kv_heads, kv_len, head_dim, generator=generator),
    )


sizes = st.tuples(st.sampled_from([64, 128]), st.sampled_from([16, 32, 64, 128]))


@pytest.mark.parametrize("compute", [attention_forward, reference_attention])
@given(
    st.integers(0, 2**31),
    sizes,
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([(1, 1, 1), (4, 2, 1), (4, 2, 2), (4, 2, 4)]),
    st.booleans(),
    st.sampled_from([False, True, "lower_right"]),
    st.sampled_from([None, (40, 0), (-1, 10), (7, -1)]),
    st.sampled_from([0.0, 0.3, 0.8]),
)
@settings(max_examples=40, deadline=None)
def test_random_blocks(
    compute, seed, block_size, q_len, kv_len, heads, per_batch, is_causal, window, density
) -> None:
    q_heads, kv_heads, mask_heads = heads
    Q, K, V = tensors(seed, 2, q_heads, kv_heads, q_len, kv_len)
    mask = BlockMask.random(
        q_len,
        kv_len,
        density,
        batch=2 if per_batch else 1,
        heads=mask_heads,
        generator=torch.Generator().manual_seed(seed),
        block_size=block_size,
    )
    result = compute(Q, K, V, block_mask=mask, is_causal=is_causal, window=window)
    expected = expected_attention(Q, K, V, mask.to_dense_mask(), is_causal, window)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)


PATTERNS = {
    "window": lambda n, m: BlockMask.sliding_window(n, m, 50, 3, sink=5),
    "window_64_32": lambda n, m: BlockMask.sliding_window(n, m, 50, block_size=(64, 32)),
    "document": lambda n, m: BlockMask.document(torch.arange(n)[None] // 70, block_size=64),
    "padded": lambda n, m: BlockMask.document(torch.arange(n)[None] // 70 - 1, block_size=(64, 16)),
    "vertical_slash": lambda n, m: BlockMask.vertical_slash(
        torch.tensor([[[3, 120, -1]]]), torch.tensor([[[0, 90]]]), q_len=n, kv_len=m
    ),
    "strided": lambda n, m: BlockMask.strided(n, m, 2, block_size=64),
    "nothing": lambda n, m: BlockMask.random(n, m, 0.0),
    "everything": lambda n, m: BlockMask.random(n, m, 1.0),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_patterns(pattern: str, is_causal: bool, kv_heads: int) -> None:
    Q, K, V = tensors(0, 2, 4, kv_heads, 273, 273)
    mask = PATTERNS[pattern](273, 273)
    result = attention_forward(Q, K, V, block_mask=mask, is_causal=is_causal)
    expected = expected_attention(Q, K, V, mask.to_dense_mask(), is_causal)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_sliding_window_mask_is_the_window_argument() -> None:
    Q, K, V = tensors(0, 1, 2, 2, 200, 333)
    mask = BlockMask.sliding_window(200, 333, 64, 5)
    by_mask = attention_forward(Q, K, V, block_mask=mask)
    by_window = attention_forward(Q, K, V, window=(64, 5))
    torch.testing.assert_close(by_mask, by_window, rtol=1e-5, atol=1e-6)


def test_update_changes_the_next_call() -> None:
    Q, K, V = tensors(0, 1, 2, 2, 256, 256)
    mask = BlockMask.from_dense(torch.ones((1, 1, 2, 2), dtype=torch.bool))
    whole = attention_forward(Q, K, V, block_mask=mask)
    lower = torch.tensor([[[[True, False], [True, True]]]])
    updated = attention_forward(Q, K, V, block_mask=mask.update_(lower))
    assert torch.equal(whole[:, :, 128:], updated[:, :, 128:])
    assert not torch.equal(whole[:, :, :128], updated[:, :, :128])


def test_skipped_blocks_are_not_read() -> None:
    """NaN in keys that no list names leaves no trace."""
    Q, K, V = tensors(0, 1, 1, 1, 128, 384)
    K[:, :, 128:256] = V[:, :, 128:256] = torch.nan
    mask = BlockMask.from_dense(torch.tensor([[True, False, True]]))
    result = attention_forward(Q, K, V, block_mask=mask)
    kept = torch.cat([torch.arange(128), torch.arange(256, 384)])
    expected = attention_forward(Q, K[:, :, kept], V[:, :, kept])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
