"""How much work a case is: selected pairs, floating-point operations, bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek._block_lists import dense_from_lists, unpack_bits
from blackwell_sparsek.attention import plan
from blackwell_sparsek.bench.cases import DTYPES, Case, Inputs
from blackwell_sparsek.block_mask import BlockMask

# Dense tensor-core peak without sparsity, TFLOP/s, and memory bandwidth, GB/s (vendor data sheets).
GPU_PEAKS = {"H100 80GB HBM3": (989.4, 3350.0), "H200": (989.4, 4800.0), "B200": (2250.0, 8000.0)}


def facts(case: Case, inputs: Inputs) -> dict[str, Any]:
    """What a row says of a case before anything is timed: `name`, `case`, `threads`, `plan`, `pairs`,
    `density` (pairs / all pairs), `flops`, `bytes`."""
    Q, K, V, options = inputs
    pairs = selected_pairs(case, options.get("block_mask"))
    all_pairs = case.batch * case.q_heads * case.q_len * case.kv_len
    return {
        "name": case.name,
        "case": dataclasses.asdict(case),
        "threads": torch.get_num_threads(),
        "plan": plan(Q, K, V, **options),
        "pairs": pairs,
        "density": pairs / all_pairs if all_pairs else 0.0,
        "flops": flops(case, pairs),
        "bytes": bytes_moved(case),
    }


def selected_pairs(case: Case, block_mask: BlockMask | None) -> int:
    """(query, key) pairs that causal, window and block mask leave, over all batches and query
    heads. `attn_mask` removes none here: kernels compute what it masks."""
    # On the mask's device: a long problem's lists are work for a GPU.
    place = torch.device("cpu") if block_mask is None else block_mask.device
    spans = _visible_keys(case, place)
    if block_mask is None:
        return case.batch * case.q_heads * int((spans[1] - spans[0]).sum())
    pairs = _pairs_of_blocks(case, spans, block_mask)
    full = dense_from_lists(block_mask.full_counts, block_mask.full_indices, block_mask.kv_blocks)
    total = int((full * pairs).sum()) + _pairs_of_partial_blocks(spans, block_mask)
    batch, heads = block_mask.shape[:2]
    return total * (case.batch // batch) * (case.q_heads // heads)


def flops(case: Case, pairs: int) -> int:
    """Of the two matrix products over the selected pairs: 2 * pairs * (head_dim + v_head_dim)."""
    return 2 * pairs * (case.head_dim + case.v_head_dim)


def bytes_moved(case: Case) -> int:
    """Least traffic: Q, K, V read once, the output written once, attn_mask read once."""
    size = DTYPES[case.dtype].itemsize
    queries = case.batch * case.q_heads * case.q_len * (case.head_dim + case.v_head_dim)
    keys = case.batch * case.kv_heads * case.kv_len * (case.head_dim + case.v_head_dim)
    mask = {
        "": 0,
        "padding": case.batch * case.kv_len,
        "padding_eighth": case.batch * case.kv_len,
        "bool": case.batch * case.q_heads * case.q_len * case.kv_len,
        "additive": case.batch * case.q_heads * case.q_len * case.kv_len * size,
    }[case.mask]
    return (queries + keys) * size + mask


def _visible_keys(case: Case, place: torch.device) -> tuple[Tensor, Tensor]:
    """First and one past the last key that causal and window leave each query: int64 [q_len]."""
    upper_left = case.is_causal in (True, "upper_left")
    diagonal = torch.arange(case.q_len, device=place) + (
        0 if upper_left else case.kv_len - case.q_len
    )
    left, right = case.window or (-1, -1)
    if case.is_causal:
        right = 0 if right < 0 else min(right, 0)
    begin = diagonal - left if left >= 0 else torch.zeros_like(diagonal)
    end = diagonal + right + 1 if right >= 0 else torch.full_like(diagonal, case.kv_len)
    begin, end = begin.clamp(0, case.kv_len), end.clamp(0, case.kv_len)
    return begin, torch.maximum(begin, end)


def _pairs_of_blocks(case: Case, spans: tuple[Tensor, Tensor], mask: BlockMask) -> Tensor:
    """Visible pairs in each (query block, key block): int64 [q_blocks, kv_blocks]."""
    block_q, block_k = mask.block_size
    first = torch.arange(mask.kv_blocks, device=mask.device) * block_k
    last = (first + block_k).clamp(max=case.kv_len)
    begin, end = (span.unsqueeze(-1) for span in spans)
    overlap = (torch.minimum(end, last) - torch.maximum(begin, first)).clamp(min=0)
    padded = torch.nn.functional.pad(overlap, (0, 0, 0, -case.q_len % block_q))
    return padded.view(mask.shape[2], block_q, mask.kv_blocks).sum(1)


def _pairs_of_partial_blocks(spans: tuple[Tensor, Tensor], mask: BlockMask) -> int:
    counts, indices, bits = mask.partial_counts, mask.partial_indices, mask.partial_bits
    if counts is None or indices is None or bits is None:
        return 0
    block_q, block_k = mask.block_size
    total = 0
    for row in range(mask.shape[2]):
        begin, end = (span[row * block_q : (row + 1) * block_q] for span in spans)
        rows = len(begin)
        listed = torch.arange(indices.shape[-1], device=mask.device) < counts[:, :, row, None]
        key = indices[:, :, row, :, None] * block_k + torch.arange(block_k, device=mask.device)
        visible = (key.unsqueeze(-2) >= begin.view(-1, 1)) & (key.unsqueeze(-2) < end.view(-1, 1))
        allowed = unpack_bits(bits[:, :, row])[..., :rows, :]
        total += int((visible & allowed & listed[..., None, None]).sum())
    return total
