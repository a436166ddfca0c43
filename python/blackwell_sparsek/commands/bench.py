"""`bsk bench`: the comparison table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    cases: Annotated[
        list[str] | None,
        typer.Option(help="A table's name, or part of a case's name; may be repeated."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="CPU threads, for instance 1,2; default: torch's.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda[:index]; default: a supported GPU, else cpu.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds, in turn with the peers.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a chart (PNG, SVG, PDF).")] = None,
    list_cases: Annotated[bool, typer.Option("--list", help="List tables and cases.")] = False,
) -> None:
    """Time the kernels beside torch's SDPA, in turn and checked against fp64, one line a case.

    Exits 1 if a result is wrong, 2 on a wrong option.
    """
    from blackwell_sparsek.bench.cases import TABLES

    if list_cases:
        for name, table in TABLES.items():
            typer.echo(f"{name}:")
            for case in table:
                typer.echo(f"  {case.name}")
        return
    try:
        place = _device(device)
        chosen = _chosen(cases or ["quick" if place == "cpu" else "small"])
        counts = _threads(threads, place)
        if plot is not None:
            _check_plot(plot)
    except (ValueError, ImportError) as error:
        typer.echo(f"bsk bench: {error}", err=True)
        raise typer.Exit(2) from error
    result = _run(chosen, counts, place, repetitions)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n")
        typer.echo(f"figures: {json_file}")
    if plot is not None:
        from blackwell_sparsek.bench import report

        report.plot(result["rows"], plot)
        typer.echo(f"chart: {plot}")
    if not all(row["correct"] for row in result["rows"]):
        typer.echo(
            "A result differs from fp64 by more than rounding: see the red errors.", err=True
        )
        raise typer.Exit(1)


def _run(chosen: list[Any], counts: list[int], place: str, repetitions: int) -> dict[str, Any]:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from blackwell_sparsek import UnsupportedError
    from blackwell_sparsek.bench import report, runner

    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    peaks = {}
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = progress.add_task("", total=len(chosen) * len(counts) * repetitions)
        for case in chosen:
            for count in counts:
                progress.update(total, description=f"{case.name} ({count} threads)")
                with runner.threads(count), torch.no_grad():
                    if count not in peaks:
                        peaks[count] = runner.peak(place)
                    try:
                        rows.append(
                            runner.run_case(
                                case, place, repetitions, lambda: progress.advance(total)
                            )
                        )
                    except UnsupportedError as error:
                        skipped.append({"name": case.name, "reason": str(error)})
                        progress.advance(total, repetitions)
    names = list(dict.fromkeys(name for row in rows for name in row["us"]))
    peers = [name for name in names if name != runner.OURS]
    table = report.columns(peers)
    for row in rows:
        report.add_row(table, row, peers, peaks[row["threads"]][0])
    report.print_table(table, console)
    for count, (tflops, meaning) in peaks.items():
        console.print(f"peak with {count} threads: {tflops:.3f} TFLOP/s ({meaning})", style="dim")
    for entry in skipped:
        console.print(f"not run: {entry['name']}: {entry['reason']}", style="yellow")
    return {
        "environment": runner.environment(),
        "device": place,
        "repetitions": repetitions,
        "peaks": [
            {"threads": n, "tflops": tflops, "meaning": meaning}
            for n, (tflops, meaning) in peaks.items()
        ],
        "rows": rows,
        "skipped": skipped,
    }


def _chosen(names: list[str]) -> list[Any]:
    from blackwell_sparsek.bench.cases import TABLES

    every = {case.name: case for table in TABLES.values() for case in table}
    found: dict[str, Any] = {}
    for name in names:
        matches = TABLES.get(name) or [c for key, c in every.items() if name in key]
        if not matches:
            raise ValueError(
                f"cases: must name a table ({', '.join(TABLES)}) or be part of a case's name; got "
                f"{name!r}. See bsk bench --list."
            )
        found.update((case.name, case) for case in matches)
    return list(found.values())


def _threads(text: str | None, place: str) -> list[int]:
    import torch

    if text is None or place != "cpu":
        return [torch.get_num_threads()]
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ValueError(
            f"threads: must be whole numbers >= 1 with commas between; got {text!r}. Pass 1,2."
        )
    return counts


def _device(asked: str | None) -> str:
    import torch

    from blackwell_sparsek.commands.doctor import kernel_for

    if asked is None:
        usable = torch.cuda.is_available() and kernel_for("cuda")[0] is not None
        return "cuda" if usable else "cpu"
    kind, _, index = asked.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(f"device: must be cpu, cuda or cuda:index; got {asked!r}. Pass cpu.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: must exist; got {asked!r} where torch sees {torch.cuda.device_count()} GPUs. "
            "Pass cpu."
        )
    return asked


def _check_plot(path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("--plot needs matplotlib: pip install blackwell-sparsek[plot]")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"plot: must end in .png, .svg or .pdf; got {path.name!r}. Rename it.")
