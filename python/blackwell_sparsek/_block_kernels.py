"""Block lists built by GPU kernels of our own, one launch a mask where torch operations take tens.

`build` is asked first by every constructor and pattern that has a kernel. It answers None where the
kernels do not take the case (another device, a dtype, a size, torch.compile, torch's dispatch
modes, a build without kernel sources): torch operations then build the same lists.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blackwell_sparsek import _C

Device = torch.device | str | int | None


def build(
    kind: str,
    shape: tuple[int, int, int, int],
    widths: tuple[int, int],
    inputs: tuple[Tensor | None, ...] = (),
    numbers: tuple[float, ...] = (),
    *,
    block_size: tuple[int, int] = (0, 0),
    lengths: tuple[int, int] = (0, 0),
    device: Device = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, ...] | None:
    """(full_counts, full_indices) or, if widths[1] > 0, these and partial_counts, partial_indices,
    partial_bits; None where torch has to build them.

    Args:
        kind: of src/cuda/sm90/block_mask_build: which rule fills the rows.
        shape: (batch, heads, q_blocks, kv_blocks).
        widths: capacities of a row: full blocks, partial blocks.
        device: where there are no inputs.
        out: write the full lists here.
    """
    if torch.compiler.is_compiling():
        return None
    index = -1
    if inputs:
        if inputs[0] is None or not inputs[0].is_cuda:
            return None
    else:
        place = torch.get_default_device() if device is None else torch.device(device)
        if place.type != "cuda":
            return None
        index = torch.cuda.current_device() if place.index is None else place.index
    result = _C.build_block_mask(
        kind, shape, block_size, lengths, widths, inputs, numbers, index, out
    )
    return None if result is NotImplemented else result


def block_scores(
    Q: Tensor,
    K: Tensor,
    block_size: tuple[int, int],
    maximum: bool,
    scale: float,
    per_kv_head: bool,
    causal_offset: int | None,
) -> Tensor | None:
    """Pooled queries times pooled keys; None where torch has to do it (gradients, too)."""
    if not Q.is_cuda or torch.compiler.is_compiling():
        return None
    result: Tensor = _C.pooled_scores(Q, K, *block_size, maximum, scale, per_kv_head, causal_offset)
    return None if result is NotImplemented else result
