"""Wrong calls: the type of the error, the argument's name, the rule, the value got, the remedy."""

from collections.abc import Callable

import pytest
import torch

from blackwell_sparsek import BlockMask, attention_forward

dense = torch.ones((1, 1, 2, 3), dtype=torch.bool)
scores = torch.zeros((1, 1, 2, 3))
ints = torch.zeros((1, 1, 2, 3), dtype=torch.int32)
counts = torch.ones((1, 1, 2), dtype=torch.int32)
columns = torch.zeros((1, 1, 4), dtype=torch.int64)
Q, K = torch.zeros(1, 4, 100, 16), torch.zeros(1, 2, 100, 16)
nan = float("nan")

# name: (call, exception, argument that the message begins with, what else it must say)
WRONG: dict[str, tuple[Callable[[], object], type[Exception], str, list[str]]] = {
    "block_size_48": (lambda: BlockMask.from_dense(dense, 48), ValueError, "block_size", ["48"]),
    "block_size_q_32": (
        lambda: BlockMask.from_dense(dense, (32, 64)),
        ValueError,
        "block_size",
        ["(32, 64)", "(64, 128)"],
    ),
    "block_size_str": (
        lambda: BlockMask.from_dense(dense, "128"),  # type: ignore[arg-type]
        TypeError,
        "block_size",
        ["'128'"],
    ),
    "block_size_triple": (
        lambda: BlockMask.from_dense(dense, (64, 64, 64)),
        TypeError,
        "block_size",
        ["pair"],
    ),
    "block_size_bool": (
        lambda: BlockMask.from_dense(dense, True),
        TypeError,
        "block_size",
        ["True"],
    ),
    "dense_float": (
        lambda: BlockMask.from_dense(dense.float()),
        TypeError,
        "mask",
        ["torch.bool", "torch.float32", "Compare"],
    ),
    "dense_list": (
        lambda: BlockMask.from_dense([[True]]),  # type: ignore[arg-type]
        TypeError,
        "mask",
        ["torch.Tensor", "list"],
    ),
    "dense_rank_3": (
        lambda: BlockMask.from_dense(dense[0]),
        ValueError,
        "mask",
        ["(1, 2, 3)", "q_blocks"],
    ),
    "dense_q_len": (
        lambda: BlockMask.from_dense(dense, q_len=300),
        ValueError,
        "mask",
        ["300", "= 3", "2 blocks"],
    ),
    "dense_kv_len": (
        lambda: BlockMask.from_dense(dense, 64, kv_len=64),
        ValueError,
        "mask",
        ["= 1", "3 blocks"],
    ),
    "dense_negative_len": (
        lambda: BlockMask.from_dense(dense, q_len=-1),
        ValueError,
        "q_len",
        [">= 0", "-1"],
    ),
    "indices_no_kv_len": (
        lambda: BlockMask.from_indices(counts, ints),
        ValueError,
        "kv_len",
        ["kv_blocks"],
    ),
    "indices_float": (
        lambda: BlockMask.from_indices(counts, ints.float(), kv_len=128),
        TypeError,
        "indices",
        ["torch.int32", "torch.float32"],
    ),
    "indices_out_of_range": (
        lambda: BlockMask.from_indices(None, ints + 3, kv_len=384),
        ValueError,
        "indices",
        ["[0, 3)"],
    ),
    "indices_minus_two": (
        lambda: BlockMask.from_indices(None, ints - 2, kv_len=384),
        ValueError,
        "indices",
        ["-1"],
    ),
    "counts_too_large": (
        lambda: BlockMask.from_indices(counts * 4, ints, kv_len=384),
        ValueError,
        "counts",
        ["[0, 3]"],
    ),
    "counts_shape": (
        lambda: BlockMask.from_indices(counts[0], ints, kv_len=384),
        ValueError,
        "counts",
        ["(1, 2)", "(1, 1, 2)"],
    ),
    "kv_blocks_disagree": (
        lambda: BlockMask.from_indices(counts, ints, kv_len=384, kv_blocks=4),
        ValueError,
        "kv_blocks",
        ["= 3", "4"],
    ),
    "indices_device": (
        lambda: BlockMask.from_indices(counts.to("meta"), ints, kv_len=384),
        ValueError,
        "counts",
        ["cpu", "meta"],
    ),
    "bsr_shapes": (
        lambda: BlockMask.from_bsr(columns[0, 0], columns, kv_len=128),
        ValueError,
        "indptr, indices",
        ["nnz", "(4,)"],
    ),
    "bsr_falls": (
        lambda: BlockMask.from_bsr(torch.tensor([0, 3, 1]), columns[0, 0], kv_len=1024),
        ValueError,
        "indptr",
        ["nnz = 4"],
    ),
    "bsr_beyond_nnz": (
        lambda: BlockMask.from_bsr(torch.tensor([0, 5]), columns[0, 0], kv_len=1024),
        ValueError,
        "indptr",
        ["nnz = 4"],
    ),
    "bsr_row_too_long": (
        lambda: BlockMask.from_bsr(
            torch.tensor([0, 4]), columns[0, 0], kv_len=1024, max_blocks_per_row=3
        ),
        ValueError,
        "indptr",
        ["at most 3", "max_blocks_per_row"],
    ),
    "flex_not_a_mask": (
        lambda: BlockMask.from_flex(dense),
        TypeError,
        "block_mask",
        ["flex_attention.BlockMask", "Tensor"],
    ),
    "fa4_half": (
        lambda: BlockMask.from_fa4(counts, ints, counts, None, q_len=256, kv_len=384),
        ValueError,
        "full_block_cnt, full_block_idx",
        ["together"],
    ),
    "window_negative": (
        lambda: BlockMask.sliding_window(100, 100, -2),
        ValueError,
        "left",
        ["-2", "unbounded"],
    ),
    "window_sink": (
        lambda: BlockMask.sliding_window(100, 100, 2, sink=-1),
        ValueError,
        "sink",
        ["-1"],
    ),
    "window_align": (
        lambda: BlockMask.sliding_window(100, 100, 2, align="centre"),
        ValueError,
        "align",
        ["'centre'", "lower_right"],
    ),
    "window_tensor_length": (
        lambda: BlockMask.sliding_window(torch.tensor(100), 100, 2),  # type: ignore[arg-type]
        TypeError,
        "q_len",
        ["int", "Tensor"],
    ),
    "vertical_range": (
        lambda: BlockMask.vertical_slash(columns + 100, columns, q_len=100, kv_len=100),
        ValueError,
        "vertical_indices",
        ["[0, 100)"],
    ),
    "slash_negative": (
        lambda: BlockMask.vertical_slash(columns, columns - 2, q_len=100, kv_len=100),
        ValueError,
        "slash_indices",
        [">= 0"],
    ),
    "slash_shape": (
        lambda: BlockMask.vertical_slash(columns, columns[0], q_len=100, kv_len=100),
        ValueError,
        "vertical_indices, slash_indices",
        ["(1, 4)"],
    ),
    "document_nothing": (lambda: BlockMask.document(), ValueError, "document_ids", ["neither"]),
    "document_both": (
        lambda: BlockMask.document(columns[0, 0], cu_seqlens=columns[0, 0]),
        ValueError,
        "document_ids",
        ["both"],
    ),
    "document_rank": (
        lambda: BlockMask.document(columns),
        ValueError,
        "document_ids",
        ["(1, 1, 4)"],
    ),
    "document_float": (
        lambda: BlockMask.document(torch.zeros(4)),
        TypeError,
        "document_ids",
        ["torch.int32"],
    ),
    "cu_seqlens_no_length": (
        lambda: BlockMask.document(cu_seqlens=columns[0, 0]),
        ValueError,
        "q_len",
        ["cu_seqlens"],
    ),
    "cu_seqlens_falls": (
        lambda: BlockMask.document(cu_seqlens=torch.tensor([0, 5, 3]), q_len=9),
        ValueError,
        "cu_seqlens",
        ["never fall"],
    ),
    "cu_seqlens_start": (
        lambda: BlockMask.document(cu_seqlens=torch.tensor([1, 5]), q_len=9),
        ValueError,
        "cu_seqlens",
        ["start at 0"],
    ),
    "cu_seqlens_end": (
        lambda: BlockMask.document(cu_seqlens=torch.tensor([0, 12]), q_len=9),
        ValueError,
        "cu_seqlens",
        ["= 9"],
    ),
    "max_document_len": (
        lambda: BlockMask.document(columns[0, 0], max_document_len=0),
        ValueError,
        "max_document_len",
        [">= 1"],
    ),
    "top_k_negative": (lambda: BlockMask.top_k(scores, -1), ValueError, "k", ["-1"]),
    "top_k_ints": (lambda: BlockMask.top_k(ints, 1), TypeError, "scores", ["torch.int32"]),
    "top_k_length": (
        lambda: BlockMask.top_k(scores, 1, q_len=1000),
        ValueError,
        "scores",
        ["= 8", "2 blocks"],
    ),
    "mass_above_one": (
        lambda: BlockMask.cumulative_mass(scores, 1.5),
        ValueError,
        "p",
        ["[0, 1]", "1.5"],
    ),
    "mass_nan": (lambda: BlockMask.cumulative_mass(scores, nan), ValueError, "p", ["nan"]),
    "mass_negative_share": (
        lambda: BlockMask.cumulative_mass(scores - 1, 0.5, softmax=False),
        ValueError,
        "scores",
        ["softmax"],
    ),
    "pool_name": (
        lambda: BlockMask.pooled_scores(Q, K, "sum"),
        ValueError,
        "pool",
        ["'sum'", "'mean'"],
    ),
    "pool_heads": (
        lambda: BlockMask.pooled_scores(Q[:, :3], K),
        ValueError,
        "K",
        ["divide", "3"],
    ),
    "pool_head_dim": (
        lambda: BlockMask.pooled_scores(Q[..., :8], K),
        ValueError,
        "Q, K",
        ["(1, 4, 100, 8)"],
    ),
    "pool_causal": (
        lambda: BlockMask.pooled_scores(Q, K, is_causal="yes"),
        ValueError,
        "is_causal",
        ["'yes'"],
    ),
    "stride_zero": (lambda: BlockMask.strided(9, 9, 0), ValueError, "stride", [">= 1"]),
    "density_percent": (
        lambda: BlockMask.random(9, 9, 25.0),
        ValueError,
        "density",
        ["percentage"],
    ),
    "density_str": (
        lambda: BlockMask.random(9, 9, "0.5"),  # type: ignore[arg-type]
        TypeError,
        "density",
        ["str"],
    ),
    "heads_zero": (lambda: BlockMask.random(9, 9, 0.5, heads=0), ValueError, "heads", [">= 1"]),
    "lists_dtype": (lambda: BlockMask(counts.long(), ints), TypeError, "full_counts", ["int64"]),
    "lists_shape": (
        lambda: BlockMask(counts[..., :1], ints),
        ValueError,
        "full_counts, full_indices",
        ["width"],
    ),
    "lists_not_contiguous": (
        lambda: BlockMask(counts, torch.zeros(1, 1, 3, 2, dtype=torch.int32).transpose(2, 3)),
        ValueError,
        "full_indices",
        ["contiguous"],
    ),
    "lists_descend": (
        lambda: BlockMask(counts * 3, torch.tensor([2, 1, 0]).int().expand(1, 1, 2, 3).clone()),
        ValueError,
        "full_indices",
        ["ascend", "from_indices"],
    ),
    "lists_out_of_range": (
        lambda: BlockMask(counts, ints + 7, kv_len=384),
        ValueError,
        "full_indices",
        ["[0, 3)"],
    ),
    "partial_alone": (
        lambda: BlockMask(counts, ints, counts),
        ValueError,
        "partial_counts, partial_indices, partial_bits",
        ["together"],
    ),
    "bits_shape": (
        lambda: BlockMask(counts, ints, counts, ints, torch.zeros(4, dtype=torch.uint8)),
        ValueError,
        "partial_bits",
        ["(1, 1, 2, 3, 128, 16)"],
    ),
    "lists_overlap": (
        lambda: BlockMask(
            counts, ints, counts, ints, torch.zeros((1, 1, 2, 3, 128, 16), dtype=torch.uint8)
        ),
        ValueError,
        "partial_indices",
        ["full list"],
    ),
    "call_q_len": (
        lambda: attention_forward(Q, K, K, block_mask=BlockMask.sliding_window(99, 100, 5)),
        ValueError,
        "block_mask",
        ["q_len=99", "q_len=100"],
    ),
    "call_kv_len": (
        lambda: attention_forward(Q, K, K, block_mask=BlockMask.sliding_window(100, 101, 5)),
        ValueError,
        "block_mask",
        ["kv_len=101", "kv_len=100"],
    ),
    "call_kv_blocks": (
        lambda: attention_forward(Q, K, K, block_mask=BlockMask.from_dense(dense[:, :, :1])),
        ValueError,
        "block_mask",
        ["3 key blocks", "kv_len=100"],
    ),
    "update_shape": (
        lambda: BlockMask.from_dense(dense).update_(dense[..., :2]),
        ValueError,
        "mask",
        ["(1, 1, 2, 3)", "(1, 1, 2, 2)"],
    ),
    "dense_mask_length": (
        lambda: BlockMask.from_dense(dense, q_len=250).to_dense_mask(q_len=200),
        ValueError,
        "q_len",
        ["250", "200"],
    ),
    "dense_mask_blocks": (
        lambda: BlockMask.from_dense(dense).to_dense_mask(kv_len=500),
        ValueError,
        "kv_len",
        ["3 blocks of 128", "500"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call(name: str) -> None:
    call, exception, argument, parts = WRONG[name]
    with pytest.raises(exception) as caught:
        call()
    assert type(caught.value) is exception
    message = str(caught.value)
    assert message.startswith(f"{argument}:"), message
    for part in parts:
        assert part in message, message
    # The remedy is a sentence of its own at the end.
    assert message.rstrip().endswith(".") and message.count(".") >= 1, message
