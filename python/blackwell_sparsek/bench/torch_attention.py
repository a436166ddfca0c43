"""The same problems by torch: SDPA as the peer to time, and fp64 rows as the truth to check."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek._block_lists import dense_from_lists, unpack_bits
from blackwell_sparsek.bench.cases import Case, Inputs
from blackwell_sparsek.block_mask import BlockMask

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def allowed_rows(case: Case, inputs: Inputs, rows: Tensor) -> Tensor | None:
    """bool [batch | 1, q_heads | 1, rows, kv_len] of every boolean rule, or None without any."""
    device = inputs.Q.device
    rows = rows.to(device)
    key = torch.arange(case.kv_len, device=device)
    upper_left = case.is_causal in (True, "upper_left")
    diagonal = (rows + (0 if upper_left else case.kv_len - case.q_len)).view(-1, 1)
    rules = []
    if case.is_causal:
        rules.append((key <= diagonal)[None, None])
    if case.window is not None:
        left, right = case.window
        if left >= 0:
            rules.append((key >= diagonal - left)[None, None])
        if right >= 0:
            rules.append((key <= diagonal + right)[None, None])
    mask = inputs.options.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        rules.append(mask if mask.shape[2] == 1 else mask[:, :, rows])
    blocks = inputs.options.get("block_mask")
    if blocks is not None:
        dense = rows_of_block_mask(blocks, rows, case.kv_len)
        if dense.shape[1] > 1:
            dense = dense.repeat_interleave(case.q_heads // dense.shape[1], 1)
        rules.append(dense)
    if not rules:
        return None
    allowed = rules[0]
    for rule in rules[1:]:
        allowed = allowed & rule
    return allowed


def rows_of_block_mask(mask: BlockMask, rows: Tensor, kv_len: int) -> Tensor:
    """bool [batch, heads, rows, kv_len]: the keys that a block mask leaves to some queries, in memory
    for these rows alone."""
    block_q, block_k = mask.block_size
    block = rows // block_q
    full = dense_from_lists(
        mask.full_counts[:, :, block], mask.full_indices[:, :, block], mask.kv_blocks
    )
    pairs = full.unsqueeze(-1).expand(*full.shape, block_k)
    counts, indices, bits = mask.partial_counts, mask.partial_indices, mask.partial_bits
    if counts is not None and indices is not None and bits is not None and indices.shape[-1] > 0:
        listed = dense_from_lists(counts[:, :, block], indices[:, :, block], mask.kv_blocks)
        slot = listed.cumsum(-1).sub_(1).clamp_(min=0).unsqueeze(-1)
        elements = unpack_bits(bits[:, :, block, :, rows % block_q].permute(1, 2, 0, 3, 4))
        slot = slot.expand(*listed.shape, block_k)
        pairs = pairs | (elements.gather(3, slot) & listed.unsqueeze(-1))
    return pairs.flatten(-2)[..., :kv_len]


def exact_rows(case: Case, inputs: Inputs, rows: Tensor) -> Tensor:
    """The outputs of some queries in fp64, by matrix products: [batch, q_heads, rows, v_head_dim].

    Rows that may attend to nothing are zeros.
    """
    Q, K, V, options = inputs
    rows = rows.to(Q.device)
    exact = Inputs(Q[:, :, rows].double(), K.double(), V.double(), options)
    return _rows(case, exact, rows)


def _rows(case: Case, inputs: Inputs, rows: Tensor) -> Tensor:
    """Of inputs whose Q holds `rows` only."""
    Q, K, V, options = inputs
    group = case.q_heads // case.kv_heads
    # The queries of a group as more rows of their key head, so that K and V are not repeated.
    grouped = Q.reshape(case.batch, case.kv_heads, group * len(rows), case.head_dim)
    scores = grouped @ K.transpose(-1, -2) * case.head_dim**-0.5
    scores = scores.view(case.batch, case.q_heads, len(rows), case.kv_len)
    if case.softcap is not None:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask[:, :, rows].to(scores.dtype)
    allowed = allowed_rows(case, inputs, rows)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)
    result: Tensor = weights.view(case.batch, case.kv_heads, group * len(rows), case.kv_len) @ V
    return result.view(case.batch, case.q_heads, len(rows), case.v_head_dim)


def sdpa_call(case: Case, inputs: Inputs, masked: bool = True) -> Attention:
    """SDPA of the case as a function of (Q, K, V), its mask built here, outside what is timed. SDPA
    has no softcap, which is left out. With masked=False full attention: the dense time of the law."""
    options = inputs.options
    kwargs: dict[str, Any] = {"enable_gqa": case.q_heads != case.kv_heads}
    if masked:
        mask = options.get("attn_mask")
        other_rules = case.window is not None or case.blocks is not None or mask is not None
        if case.is_causal in (True, "upper_left") and not other_rules:
            kwargs["is_causal"] = True
        elif other_rules or case.is_causal:
            allowed = allowed_rows(case, inputs, torch.arange(case.q_len))
            kwargs["attn_mask"] = allowed
            if mask is not None and mask.dtype != torch.bool:
                added = mask if allowed is None else mask.masked_fill(~allowed, -torch.inf)
                kwargs["attn_mask"] = added
    return functools.partial(scaled_dot_product_attention, **kwargs)


def torch_result(case: Case, inputs: Inputs) -> Tensor:
    """The case by torch in the case's own precision: SDPA, or where it lacks softcap, matrix
    products in fp32. Rows that may attend to nothing may be NaN."""
    Q, K, V, options = inputs
    if case.softcap is None:
        return sdpa_call(case, inputs)(Q, K, V)
    low = Inputs(Q.float(), K.float(), V.float(), options)
    rows = torch.arange(case.q_len, device=Q.device)
    return _rows(case, low, rows).to(Q.dtype)
