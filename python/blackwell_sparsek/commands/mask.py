"""`bsk mask`: block masks as pictures."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Pattern(str, Enum):
    window = "window"
    strided = "strided"
    random = "random"
    document = "document"


@app.callback()
def _mask() -> None:
    """Look at block masks."""


def _load(file: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or "it is empty"
        raise ValueError(
            f"file: must be one that torch.save wrote; got {file}: {reason}. "
            "Save a bool tensor by torch.save."
        ) from error


@app.command()
def show(
    pattern: Annotated[Pattern, typer.Argument(help="Which pattern to build.")] = Pattern.window,
    q_len: Annotated[int, typer.Option(help="Queries.")] = 4096,
    kv_len: Annotated[int, typer.Option(help="Keys; 0 = as many as queries.")] = 0,
    block_q: Annotated[int, typer.Option(help="Queries per block: 64 or 128.")] = 128,
    block_k: Annotated[int, typer.Option(help="Keys per block: 16, 32, 64 or 128.")] = 128,
    heads: Annotated[int, typer.Option(help="Heads with a pattern of their own (random).")] = 1,
    left: Annotated[
        int, typer.Option(help="Keys left of the diagonal (window); -1 = unbounded.")
    ] = 1024,
    right: Annotated[
        int, typer.Option(help="Keys right of the diagonal (window); -1 = unbounded.")
    ] = 0,
    sink: Annotated[int, typer.Option(help="Leading keys that every query sees (window).")] = 0,
    stride: Annotated[int, typer.Option(help="Blocks between computed ones (strided).")] = 4,
    density: Annotated[
        float, typer.Option(help="Share of the blocks that is computed (random).")
    ] = 0.25,
    document_len: Annotated[int, typer.Option(help="Tokens per document (document).")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed (random).")] = 0,
    head: Annotated[int, typer.Option(help="The head to draw.")] = 0,
    file: Annotated[
        Path | None,
        typer.Option(
            help="A bool tensor saved by torch.save: [batch, heads, q_blocks, kv_blocks]."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also write a picture (PNG, SVG or PDF).")
    ] = None,
) -> None:
    """Draw a pattern, or the mask in a file, and say how dense and how skewed it is."""
    import torch

    from blackwell_sparsek._block_picture import text
    from blackwell_sparsek.block_mask import BlockMask

    size = (block_q, block_k)
    keys = kv_len or q_len
    try:
        if file is not None:
            mask = BlockMask.from_dense(_load(file), size)
        elif pattern is Pattern.window:
            mask = BlockMask.sliding_window(q_len, keys, left, right, sink, block_size=size)
        elif pattern is Pattern.strided:
            mask = BlockMask.strided(q_len, keys, stride, block_size=size)
        elif pattern is Pattern.document:
            if document_len < 1:
                raise ValueError(f"document-len: must be >= 1; got {document_len}.")
            if keys != q_len:
                raise ValueError(
                    f"kv-len: must be q-len, {q_len}, for documents; got {keys}. Leave it out."
                )
            ids = torch.arange(q_len) // document_len
            mask = BlockMask.document(ids, max_document_len=document_len, block_size=size)
        else:
            generator = torch.Generator().manual_seed(seed)
            mask = BlockMask.random(
                q_len, keys, density, heads=heads, generator=generator, block_size=size
            )
        typer.echo(text(mask, head=head))
        if plot is not None:
            mask.plot(head=head).savefig(plot)
            typer.echo(f"picture: {plot}")
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"bsk mask show: {error}", err=True)
        raise typer.Exit(2) from error
