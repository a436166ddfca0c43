"""`bsk validate`: the kernels against the fp64 oracle and torch's SDPA."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer


def validate(
    cases: Annotated[
        str, typer.Option(help="smoke, edge, sweep, all, or part of a case's name.")
    ] = "smoke",
    count: Annotated[int, typer.Option(min=1, help="Cases of the sweep.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the sweep and of the inputs.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda[:index]; default: a supported GPU, else cpu.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for every case.")
    ] = False,
) -> None:
    """Compare every case with fp64; the error may be at most twice that of torch.

    On a GPU, cases in fp32 are computed in fp16.

    Exits 1 on a mismatch, 2 on a wrong option.
    """
    import torch
    from rich.console import Console
    from rich.progress import track

    from blackwell_sparsek.commands.bench import _device

    try:
        place = _device(device)
        chosen = _chosen(cases, count, seed)
    except ValueError as error:
        typer.echo(f"bsk validate: {error}", err=True)
        raise typer.Exit(2) from error
    if place.startswith("cuda"):  # which computes in 16 bits
        chosen = [
            dataclasses.replace(case, dtype="fp16") if case.dtype == "fp32" else case
            for case in chosen
        ]
    console, failed, skipped = Console(), 0, 0
    with torch.no_grad():
        for case in track(chosen, "validating", console=Console(stderr=True), transient=True):
            verdict, text = check(case, place, seed)
            failed += verdict == "wrong"
            skipped += verdict == "not supported"
            if verbose or verdict == "wrong":
                style = {"right": "green", "wrong": "red"}.get(verdict, "yellow")
                console.print(f"[{style}]{verdict}[/] {case.name}: {text}", soft_wrap=True)
    right = len(chosen) - failed - skipped
    console.print(f"{right} right, {failed} wrong, {skipped} not supported, on {place}")
    if failed or right == 0:
        raise typer.Exit(1)


def check(case: Any, device: str, seed: int = 0) -> tuple[str, str]:
    """("right" | "wrong" | "not supported", a sentence) for one case.

    Special values first: NaN and infinities where the oracle has them and nowhere else. Then the
    largest error: at most twice torch's own in the same precision, plus one spacing of the dtype at
    the output's largest value.
    """
    import torch

    from blackwell_sparsek import UnsupportedError, attention_forward
    from blackwell_sparsek.bench.torch_attention import torch_result
    from blackwell_sparsek.utils import reference_attention, validate_correctness

    inputs = case.make(device, seed)
    try:
        output = attention_forward(inputs.Q, inputs.K, inputs.V, **inputs.options)
        expected = reference_attention(inputs.Q, inputs.K, inputs.V, **inputs.options)
    except UnsupportedError as error:
        return "not supported", str(error)
    _, metrics = validate_correctness(output.cpu().double(), expected)
    if metrics["num_nonfinite_mismatches"]:
        return "wrong", f"NaN or inf at {metrics['worst_diff_location']}"
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    spacing = torch.finfo(output.dtype).eps * max(largest, 1e-3)
    theirs = torch_result(case, inputs).cpu().double()
    # Rows without any key: zeros here by definition, NaN in some of SDPA's backends.
    theirs = torch.where(theirs.isnan() | (expected == 0), expected, theirs)
    torch_error = float((theirs - expected).abs().max()) if expected.numel() else 0.0
    allowed = 2 * torch_error + spacing
    text = f"error {metrics['max_diff']:.2e}, allowed {allowed:.2e} (torch's is {torch_error:.2e})"
    if metrics["max_diff"] > allowed:
        return "wrong", f"{text}, worst at {metrics['worst_diff_location']}"
    return "right", text


def _chosen(name: str, count: int, seed: int) -> list[Any]:
    from blackwell_sparsek.bench.cases import EDGE, SMOKE, sweep

    lists = {"smoke": SMOKE, "edge": EDGE, "sweep": sweep(count, seed)}
    if name == "all":
        return [case for cases in lists.values() for case in cases]
    if name in lists:
        return list(lists[name])
    matches = [case for cases in lists.values() for case in cases if name in case.name]
    if not matches:
        raise ValueError(
            f"cases: must be smoke, edge, sweep, all or part of a case's name; got {name!r}. "
            "Try smoke."
        )
    return matches
