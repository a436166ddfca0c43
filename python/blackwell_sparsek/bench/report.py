"""What the bench prints and draws of its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from blackwell_sparsek.bench.runner import OURS


def columns(peers: list[str]) -> Table:
    """An empty table with the bench's columns; `peers` are compared with as `x name`."""
    table = Table(box=None, pad_edge=False)
    table.add_column("case", no_wrap=True)
    compared = [f"x {peer}" for peer in peers]
    for heading in ("threads", "us", "spread", "TFLOP/s", "% peak", "GB/s", *compared, "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def add_row(table: Table, row: dict[str, Any], peers: list[str], peak_tflops: float) -> None:
    """One line: median us, spread, speed, and how many times faster than each peer."""
    ours = row["us"][OURS]
    tflops = row["flops"] / ours["median"] / 1e6
    cells = [
        row["name"],
        str(row["threads"]),
        f"{ours['median']:.1f}",
        f"{ours['least']:.0f}-{ours['greatest']:.0f}",
        f"{tflops:.3f}",
        f"{100 * tflops / peak_tflops:.0f}" if peak_tflops else "-",
        f"{row['bytes'] / ours['median'] / 1e3:.1f}",
    ]
    for peer in peers:
        other = row["us"].get(peer)
        cells.append(f"{other['median'] / ours['median']:.2f}" if other else "-")
    cells.append(f"{row['max_error']:.1e}" if row["correct"] else f"[red]{row['max_error']:.1e}[/]")
    table.add_row(*cells)


def print_table(table: Table, console: Console) -> None:
    """One line a case, also where the terminal (or a file) is narrower than the line."""
    wide = Console(file=console.file, width=max(console.width, 200))
    wide.print(table, soft_wrap=True)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of every side's time per case, with the spread; PNG, SVG or PDF by the name.

    Raises ImportError that names the extra where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "bsk bench --plot needs matplotlib. Install it with "
            "`pip install blackwell-sparsek[plot]`."
        ) from error
    sides = list(dict.fromkeys(side for row in rows for side in row["us"]))
    figure = Figure(figsize=(10, 1.2 + 0.5 * len(rows) * max(1, len(sides)) / 2), layout="tight")
    axes = figure.subplots()
    height = 0.8 / len(sides)
    for index, side in enumerate(sides):
        shown = [(n, row["us"][side]) for n, row in enumerate(rows) if side in row["us"]]
        medians = [us["median"] for _, us in shown]
        spread = [
            [us["median"] - us["least"] for _, us in shown],
            [us["greatest"] - us["median"] for _, us in shown],
        ]
        axes.barh([n + index * height for n, _ in shown], medians, height, xerr=spread, label=side)
    axes.set_yticks(
        [n + 0.4 - height / 2 for n in range(len(rows))],
        [f"{row['name']}, {row['threads']} threads" for row in rows],
    )
    axes.invert_yaxis()
    axes.set_xlabel("us per call (median of rounds; whiskers: least and greatest)")
    axes.legend()
    figure.savefig(path, dpi=150)
