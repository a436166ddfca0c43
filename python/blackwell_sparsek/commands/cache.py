"""`bsk cache`: what the folder of compiled kernels holds."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from blackwell_sparsek import _C

SUFFIX = ".bskcubin"


def cache_contents() -> dict[str, Any]:
    """`folder`, `files`, `bytes`, `limit_bytes`; `kernels`: name, bytes, last use, newest first."""
    folder, files, size, limit = _C.kernel_cache_stats()
    kernels = []
    for path in Path(folder).glob(f"*{SUFFIX}"):
        try:
            status = path.stat()
        except FileNotFoundError:  # evicted by another process meanwhile
            continue
        used = datetime.datetime.fromtimestamp(status.st_mtime).isoformat(" ", "seconds")
        name = path.name.removesuffix(SUFFIX).rpartition("-")[0]
        kernels.append({"name": name, "bytes": status.st_size, "last_used": used})
    kernels.sort(key=lambda kernel: str(kernel["last_used"]), reverse=True)
    return {
        "folder": folder,
        "files": files,
        "bytes": size,
        "limit_bytes": limit,
        "kernels": kernels,
    }


def cache_command(
    clear: Annotated[bool, typer.Option("--clear", help="Remove every compiled kernel.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look after the kernel cache (Config.build_dir, BSK_BUILD_DIR).

    `--clear` removes this library's files only, and ends with 1 where some could not be removed.
    """
    console = Console()
    if clear:
        removed = _C.kernel_cache_clear()
        left = _C.kernel_cache_stats()[1]
        console.print(f"{removed} compiled kernels removed, {left} left.", highlight=False)
        raise typer.Exit(1 if left else 0)
    contents = cache_contents()
    if as_json:
        print(json.dumps(contents, indent=1))
        return
    table = Table(Column("kernel", overflow="fold"), "KB", "last used", title=contents["folder"])
    for kernel in contents["kernels"]:
        table.add_row(kernel["name"], f"{kernel['bytes'] / 1024:.0f}", kernel["last_used"])
    console.print(table)
    console.print(
        f"{contents['files']} compiled kernels, {contents['bytes'] / 1e6:.1f} MB of at most "
        f"{contents['limit_bytes'] / 1e6:.0f} MB.",
        highlight=False,
    )
