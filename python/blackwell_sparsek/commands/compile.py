"""`bsk compile`: the documented kernels' machine code, before anybody waits for it."""

from __future__ import annotations

import fnmatch
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from blackwell_sparsek import _C
from blackwell_sparsek.commands.doctor import cache_findings
from blackwell_sparsek.core import get_default_config

DEFAULT_JOBS = min(8, os.cpu_count() or 1)

Kernel = tuple[str, str, str, str, str]  # name, source, entry, config, architecture


def documented_kernels(pattern: str = "*", arch: str | None = None) -> list[Kernel]:
    """The configurations that the documentation names, of one architecture where it is given."""
    return [
        kernel
        for kernel in _C.documented_kernels()
        if fnmatch.fnmatch(kernel[0], pattern) and arch in (None, kernel[4])
    ]


def compile_command(
    pattern: Annotated[str, typer.Argument(help="Kernels whose name matches, '*' = all.")] = "*",
    arch: Annotated[
        str | None, typer.Option(help="'90a' or '100a'; default: Config's, else every one.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Kernels compiled at once.")] = DEFAULT_JOBS,
    list_only: Annotated[bool, typer.Option("--list", help="Only name them.")] = False,
) -> None:
    """Fill the kernel cache ahead of time. Needs no GPU.

    Kernels that the package carries as machine code, or that the cache holds, are not compiled
    again. Ends with 1 where a kernel did not compile or the cache cannot be written, with 2 where
    no kernel matches.
    """
    console = Console()
    arch = arch or get_default_config().cuda_arch
    kernels = documented_kernels(pattern, arch)
    if not kernels:
        console.print(
            f"No documented kernel of this build matches {pattern!r}"
            + (f" on sm_{arch}." if arch else "."),
            markup=False,
        )
        raise typer.Exit(2)
    if list_only:
        for kernel in kernels:
            console.print(kernel[0], markup=False)
        return

    for finding in cache_findings():
        if finding.state != "ok":
            console.print(f"{finding.text}. {finding.remedy}", style="red", markup=False)
            raise typer.Exit(1)
    kernel_column = Column("kernel", overflow="fold")
    table = Table(kernel_column, "architecture", "from", "seconds", "KB", title="Machine code")
    failed: list[tuple[str, str]] = []
    with Progress(console=console, transient=True) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("compiling", total=len(kernels))
        futures = {pool.submit(_C.compile_kernel, *kernel): kernel for kernel in kernels}
        rows = {}
        for future in as_completed(futures):
            kernel = futures[future]
            progress.advance(task)
            try:
                origin, seconds, size, _ = future.result()
            except RuntimeError as error:
                failed.append((kernel[0], str(error)))
            else:
                rows[kernel] = (origin, f"{seconds:.2f}", f"{size / 1024:.0f}")
    for kernel in kernels:
        if kernel in rows:
            table.add_row(kernel[0], f"sm_{kernel[4]}", *rows[kernel])
    console.print(table)
    for name, message in failed:
        console.print(f"{name}: {message}", style="red", markup=False)
    if failed:
        raise typer.Exit(1)
