"""`bsk bench`: the comparison table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    cases: Annotated[
        list[str] | None,
        typer.Option(help="A table's name, or part of a case's name; may be repeated."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Each table's most telling cases, half the time each.")
    ] = False,
    threads: Annotated[
        str | None, typer.Option(help="CPU threads, for instance 1,2; default: torch's.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda[:index]; default: a supported GPU, else cpu.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds, in turn with the peers.")] = 5,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="GPU: what the run may take; default: the estimate printed."),
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            help="GPU: names or their beginnings, for instance sdpa,blackwell; default: all."
        ),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            help="GPU: kernels of ours by name, with commas, each timed as one more side."
        ),
    ] = None,
    steady: Annotated[
        float, typer.Option(min=0, help="GPU: also time each side for so many seconds on end.")
    ] = 0.0,
    first_call: Annotated[
        bool, typer.Option("--first-call", help="Also time the first call of new processes.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file, after each case.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write charts (PNG, SVG, PDF): FILE, and FILE with _tflops, _density."),
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="The commit, where the package cannot tell its own.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            help="Run nothing; print this JSON file as Markdown (and draw it, with --plot)."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="With --markdown: these columns, for instance 'case,us,x cudnn'."),
    ] = None,
    list_cases: Annotated[bool, typer.Option("--list", help="List tables and cases.")] = False,
) -> None:
    """Time the kernels beside torch's SDPA, in turn and checked against fp64, one line a case.

    Exits 1 if a result is wrong or a case fails, 2 on a wrong option.
    """
    from blackwell_sparsek.bench.tables import TABLES, chosen_cases

    if list_cases:
        for name, table in TABLES.items():
            typer.echo(f"{name}: {table.meaning}")
            for case in table.cases:
                typer.echo(f"  {case.name}{' (quick)' if case in table.quick else ''}")
        return
    try:
        if markdown is not None:
            from blackwell_sparsek.bench import report

            result = _read(markdown)
            wanted = None if columns is None else [name.strip() for name in columns.split(",")]
            typer.echo(report.markdown(result, wanted), nl=False)
            if plot is not None:
                _check_plot(plot)
                _draw(result, plot)
            return
        if columns is not None:
            raise ValueError("columns: is for --markdown; got no such file. Leave it out.")
        place = _device(device)
        chosen = chosen_cases(cases or ["trial" if place == "cpu" else "small"], quick)
        counts = _threads(threads, place)
        if plot is not None:
            _check_plot(plot)
        if json_file is not None:
            _check_folder("json", json_file)
        if place == "cpu":
            result = _result(place, repetitions, commit)
            run = _cpu_run(chosen, counts, repetitions)
        else:
            result = _result(place, repetitions, commit)
            run = _gpu_run(chosen, place, quick, repetitions, seconds, peers, variants, steady)
    except (ValueError, ImportError) as error:
        typer.echo(f"bsk bench: {error}", err=True)
        raise typer.Exit(2) from error
    run(result, lambda: None if json_file is None else _write(json_file, result))
    if first_call:
        from blackwell_sparsek.bench import first_call as first

        result["first_call"] = first.measure(place)
    _finish(result, json_file, plot)


def _finish(result: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from rich.console import Console

    from blackwell_sparsek.bench import report

    report.print_result(result, Console())
    if json_file is not None:
        _write(json_file, result)
        typer.echo(f"figures: {json_file}")
    if plot is not None:
        _draw(result, plot)
    if not all(row["correct"] for row in result["rows"]):
        typer.echo("A result differs from fp64 by more than rounding: see the red lines.", err=True)
        raise typer.Exit(1)
    if any(entry.get("failed") for entry in result["skipped"]):
        raise typer.Exit(1)


def _draw(result: dict[str, Any], plot: Path) -> None:
    from blackwell_sparsek.bench import report

    if result["rows"]:
        for path in report.plot(result["rows"], plot):
            typer.echo(f"chart: {path}", err=True)


def _result(place: str, repetitions: int, commit: str | None) -> dict[str, Any]:
    """A run's figures, before there are any."""
    from blackwell_sparsek.bench import runner

    environment = runner.environment()
    if commit is not None:
        environment["commit"] = commit
    return {
        "environment": environment,
        "device": place,
        "repetitions": repetitions,
        "peaks": [],
        "rows": [],
        "skipped": [],
    }


Run = Callable[[dict[str, Any], Callable[[], None]], None]


def _cpu_run(chosen: list[Any], counts: list[int], repetitions: int) -> Run:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from blackwell_sparsek import UnsupportedError
    from blackwell_sparsek.bench import runner

    def run(result: dict[str, Any], keep: Callable[[], None]) -> None:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            total = progress.add_task("", total=len(chosen) * len(counts) * repetitions)
            for case in chosen:
                for count in counts:
                    progress.update(total, description=f"{case.name} ({count} threads)")
                    with runner.threads(count), torch.no_grad():
                        if count not in {peak["threads"] for peak in result["peaks"]}:
                            result["peaks"].append(_peak(count, "cpu"))
                        try:
                            row = runner.run_case(
                                case, "cpu", repetitions, lambda: progress.advance(total)
                            )
                            result["rows"].append(row)
                        except UnsupportedError as error:
                            result["skipped"].append({"name": case.name, "reason": str(error)})
                            progress.advance(total, repetitions)
                    keep()

    return run


def _gpu_run(
    chosen: list[Any],
    place: str,
    quick: bool,
    repetitions: int,
    seconds: float | None,
    peers: str | None,
    variants: str | None,
    steady: float,
) -> Run:
    import torch

    from blackwell_sparsek.bench import gpu_state, session
    from blackwell_sparsek.bench.gpu_runner import Limits
    from blackwell_sparsek.core import Config

    names = None if peers is None else tuple(peers.split(","))
    kernels = tuple(variants.split(",")) if variants else ()
    for kernel in kernels:
        Config(kernel=kernel)  # ValueError where there is none of that name
    limits = Limits(
        seconds=3.0 if quick else 6.0,
        rounds=repetitions,
        steady_seconds=steady,
        wanted=lambda name: names is None or name.startswith(names),
        variants=kernels,
    )
    if seconds is not None:
        limits = session.fitted(chosen, limits, seconds)
    total = seconds if seconds is not None else session.estimate(chosen, limits)
    typer.echo(
        f"{len(chosen)} cases, {limits.seconds:.1f} s of timing each: at most {total:.0f} s in all."
    )

    def run(result: dict[str, Any], keep: Callable[[], None]) -> None:
        def done(row: dict[str, Any] | None, skipped: dict[str, Any] | None) -> None:
            if row is not None:
                result["rows"].append(row)
                us = row["us"]["blackwell_sparsek"]["median"]
                typer.echo(f"{row['name']}: {us:.2f} us ({row['seconds']:.1f} s)", err=True)
            if skipped is not None:
                result["skipped"].append(skipped)
                typer.echo(f"not run: {skipped['name']}: {skipped['reason']}", err=True)
            result["gpu_after"] = gpu_state.gpu_state()
            keep()

        with torch.cuda.device(place), torch.no_grad():
            result["gpu_before"] = gpu_state.gpu_state()
            result["peaks"].append(_peak(torch.get_num_threads(), place))
            session.run(chosen, place, limits, total, done)

    return run


def _peak(count: int, place: str) -> dict[str, Any]:
    from blackwell_sparsek.bench import runner

    tflops, meaning = runner.peak(place)
    return {"threads": count, "tflops": tflops, "meaning": meaning}


def _write(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all, so that a run that ends early leaves a file that can be read."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"markdown: must be a JSON file of bsk bench; got {path}: {error}. Write one with --json."
        ) from error
    if not isinstance(result, dict) or not {"rows", "environment", "peaks"} <= result.keys():
        raise ValueError(
            f"markdown: must be a JSON file of bsk bench; got {path} without rows. "
            "Write one with --json."
        )
    return result


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
    _check_folder("plot", path)


def _check_folder(option: str, path: Path) -> None:
    """Before the run, whose figures would be lost."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        rule = "must be a file in a folder that is there and can be written"
        raise ValueError(f"{option}: {rule}; got {str(path)!r}. Make the folder, or name another.")
