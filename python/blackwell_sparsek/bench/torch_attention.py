"""The same problems by torch: SDPA as the peer to time, and fp64 rows as the truth to check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek.bench.cases import Case, Inputs

Call = Callable[[], Tensor]


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
        if blocks.partial_counts is None:
            block_q, block_k = blocks.block_size
            dense = blocks.to_dense()[:, :, rows // block_q]
            dense = dense.repeat_interleave(block_k, -1)[..., : case.kv_len]
        else:
            dense = blocks.to_dense_mask(case.q_len, case.kv_len)[:, :, rows]
        if dense.shape[1] > 1:
            dense = dense.repeat_interleave(case.q_heads // dense.shape[1], 1)
        rules.append(dense)
    if not rules:
        return None
    allowed = rules[0]
    for rule in rules[1:]:
        allowed = allowed & rule
    return allowed


def exact_rows(case: Case, inputs: Inputs, rows: Tensor) -> Tensor:
    """The outputs of some queries in fp64, by matrix products: [batch, q_heads, rows, v_head_dim].

    Rows that may attend to nothing are zeros.
    """
    Q, K, V, options = inputs
    exact = Inputs(Q.double(), K.double(), V.double(), options)
    return _rows(case, exact, rows)


def _rows(case: Case, inputs: Inputs, rows: Tensor) -> Tensor:
    Q, K, V, options = inputs
    group = case.q_heads // case.kv_heads
    keys, values = (tensor.repeat_interleave(group, 1) for tensor in (K, V))
    rows = rows.to(Q.device)
    scores = Q[:, :, rows] @ keys.transpose(-1, -2) * case.head_dim**-0.5
    if case.softcap is not None:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask[:, :, rows].to(scores.dtype)
    allowed = allowed_rows(case, inputs, rows)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    result: Tensor = scores.softmax(-1).nan_to_num(0.0) @ values
    return result


def sdpa_call(case: Case, inputs: Inputs, masked: bool = True) -> Call | None:
    """SDPA of the case, its mask built here, outside what is timed; None for softcap, which SDPA
    lacks. With masked=False full attention over the same tensors: the dense time of the law."""
    if case.softcap is not None and masked:
        return None
    Q, K, V, options = inputs
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
    return lambda: scaled_dot_product_attention(Q, K, V, **kwargs)


def torch_result(case: Case, inputs: Inputs) -> Tensor:
    """The case by torch in the case's own precision: SDPA, or where it lacks softcap, matrix
    products in fp32. Rows that may attend to nothing may be NaN."""
    call = sdpa_call(case, inputs)
    if call is not None:
        return call()
    Q, K, V, options = inputs
    low = Inputs(Q.float(), K.float(), V.float(), options)
    rows = torch.arange(case.q_len)
    return _rows(case, low, rows).to(Q.dtype)


class Peer(NamedTuple):
    """Something timed beside the kernel: a call, and the torch backend it is forced to ("" = any),
    which is entered outside what is timed."""

    name: str
    call: Call
    backend: str = ""

    def forced(self) -> AbstractContextManager[Any]:
        if not self.backend:
            return nullcontext()
        from torch.nn.attention import SDPBackend, sdpa_kernel

        context: AbstractContextManager[Any] = sdpa_kernel(getattr(SDPBackend, self.backend))
        return context


def peers(case: Case, inputs: Inputs) -> list[Peer]:
    """`sdpa` computes the same; `sdpa_dense` (where the case skips pairs) computes all of them; on
    a GPU `sdpa_cudnn` and `sdpa_flash` are torch's backends, where they take the problem, and
    `flex` is FlexAttention, compiled, for masks of full blocks. Not run on a GPU yet."""
    found = []
    same = sdpa_call(case, inputs)
    if same is not None:
        found.append(Peer("sdpa", same))
    if case.blocks is not None or case.window is not None:
        dense = sdpa_call(case, inputs, masked=False)
        if dense is not None:
            found.append(Peer("sdpa_dense", dense))
    if inputs.Q.is_cuda:
        if same is not None:
            found += [
                peer
                for peer in (
                    Peer("sdpa_cudnn", same, "CUDNN_ATTENTION"),
                    Peer("sdpa_flash", same, "FLASH_ATTENTION"),
                )
                if _takes(peer)
            ]
        flex = _flex_call(case, inputs)
        if flex is not None:
            found.append(Peer("flex", flex))
    return found


def _takes(peer: Peer) -> bool:
    try:
        with peer.forced():
            peer.call()
    except RuntimeError:
        return False
    return True


def _flex_call(case: Case, inputs: Inputs) -> Call | None:
    from torch.nn.attention import flex_attention

    blocks = inputs.options.get("block_mask")
    plain = not (case.is_causal or case.window or case.mask or case.softcap)
    if blocks is None or blocks.partial_counts is not None or not plain:
        return None
    group = case.q_heads // blocks.shape[1] if blocks.shape[1] > 1 else 1
    counts = blocks.full_counts.repeat_interleave(group, 1)
    indices = blocks.full_indices.repeat_interleave(group, 1)
    mask = flex_attention.BlockMask.from_kv_blocks(
        torch.zeros_like(counts),
        torch.zeros_like(indices),
        counts,
        indices,
        BLOCK_SIZE=blocks.block_size,
        seq_lengths=(case.q_len, case.kv_len),
    )
    compiled = torch.compile(flex_attention.flex_attention)
    Q, K, V, _ = inputs
    grouped = case.q_heads != case.kv_heads

    def call() -> Tensor:
        result: Tensor = compiled(Q, K, V, block_mask=mask, enable_gqa=grouped)
        return result

    return call
