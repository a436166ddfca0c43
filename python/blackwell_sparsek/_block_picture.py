"""Pictures of a block mask, for people: a matplotlib figure and plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._block_checks import checked_int
from ._block_lists import problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ._block_mask_base import BlockMaskBase

_SHADES = " ░▒▓█"  # share of the blocks under one character that are computed


def head_densities(mask: BlockMaskBase) -> Tensor:
    """fp32 [batch, heads] on the CPU: blocks computed / blocks, per head."""
    rows = mask.row_counts().float().cpu()
    return rows.sum(-1) / max(1, mask.shape[2] * mask.shape[3])


def _one_head(mask: BlockMaskBase, batch: int, head: int) -> tuple[Tensor, Tensor]:
    """0 = skipped, 1 = partial, 2 = full: uint8 [q_blocks, kv_blocks]; and rows [q_blocks]."""
    from ._block_lists import dense_from_lists

    for name, index, size in (("batch", batch, mask.shape[0]), ("head", head, mask.shape[1])):
        if checked_int(name, index, 0) >= size:
            rule = f"must be below the mask's {size}"
            raise ValueError(problem(name, rule, index, "The mask is shared where it has 1."))
    full = dense_from_lists(mask.full_counts, mask.full_indices, mask.kv_blocks)[batch, head]
    kinds = mask.to_dense()[batch, head].to(torch.uint8) + full.to(torch.uint8)
    return kinds.cpu(), mask.row_counts()[batch, head].cpu()


def figure(mask: BlockMaskBase, batch: int = 0, head: int = 0) -> Figure:
    """See `BlockMask.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "BlockMask.plot needs matplotlib. Install it with "
            "`pip install blackwell-sparsek[plot]`."
        ) from error
    kinds, rows = _one_head(mask, batch, head)
    densities = head_densities(mask)[batch]
    drawing = Figure(figsize=(12, 4), layout="constrained")
    blocks, heads, skew = drawing.subplots(1, 3)
    blocks.imshow(kinds.numpy(), cmap="Blues", vmin=0, vmax=2, aspect="auto", interpolation="none")
    blocks.set(
        title=f"batch {batch}, head {head} (dark = full, light = partial)",
        xlabel=f"key block of {mask.block_size[1]}",
        ylabel=f"query block of {mask.block_size[0]}",
    )
    heads.bar(range(len(densities)), densities.numpy())
    heads.set(title="density of each head", xlabel="head", ylabel="blocks computed / blocks")
    heads.set_ylim(0, 1)
    skew.plot(rows.sort(descending=True).values.numpy(), drawstyle="steps-mid")
    skew.set(title="rows' skew", xlabel="query blocks, longest first", ylabel="key blocks computed")
    skew.set_ylim(bottom=0)
    return drawing


def text(
    mask: BlockMaskBase, batch: int = 0, head: int = 0, columns: int = 64, lines: int = 32
) -> str:
    """One head in characters, and the density and rows' lengths of every head."""
    kinds, _ = _one_head(mask, batch, head)
    out = [repr(mask), f"density {mask.density():.4f} (blocks computed / blocks)", ""]
    q_blocks, kv_blocks = kinds.shape
    if q_blocks and kv_blocks:
        out.append(f"batch {batch}, head {head}: a row is a query block, {_SHADES[-1]} = computed")
        grid = torch.nn.functional.adaptive_avg_pool2d(
            (kinds > 0).float()[None, None], (min(lines, q_blocks), min(columns, kv_blocks))
        )[0, 0]
        # Anything computed shows: only an exact 0 is blank.
        level = (grid * (len(_SHADES) - 1)).ceil().long().clamp(0, len(_SHADES) - 1)
        out += ["|" + "".join(_SHADES[int(shade)] for shade in row) + "|" for row in level]
        out.append("")
    out.append("head  density  blocks a row: least  median  most  longest / mean  empty rows")
    rows = mask.row_counts().float().cpu()[batch]
    for index, lengths in enumerate(rows):
        if lengths.numel() == 0:
            continue
        mean = float(lengths.mean())
        skew = float(lengths.max()) / mean if mean else 0.0
        out.append(
            f"{index:4d}  {mean / max(1, kv_blocks):7.4f}  {int(lengths.min()):19d}  "
            f"{int(lengths.median()):6d}  {int(lengths.max()):4d}  {skew:14.2f}  "
            f"{int((lengths == 0).sum()):10d}"
        )
    return "\n".join(out)
