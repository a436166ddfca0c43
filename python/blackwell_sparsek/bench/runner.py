"""Runs cases: kernel and peers in turn (ABBA), checked against fp64 in the same run."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blackwell_sparsek.attention import attention_forward, plan
from blackwell_sparsek.bench import roofline
from blackwell_sparsek.bench.cases import Case, Inputs
from blackwell_sparsek.bench.torch_attention import Peer, exact_rows, peers
from blackwell_sparsek.core import get_build_info
from blackwell_sparsek.utils.benchmark import benchmark_latency
from blackwell_sparsek.utils.validation import validate_correctness

OURS = "blackwell_sparsek"
_CHECKED_ROWS = 64
_ROUND_US = 250_000.0  # what one round of one side may take
_MAX_CALLS = 100

# Of the outputs of normal inputs, whose size is about 1 / sqrt(keys): rtol, atol.
_TOLERANCE = {"fp32": (1e-4, 1e-5), "fp16": (2e-3, 1e-3), "bf16": (1e-2, 8e-3)}


def environment(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Device, versions, commit and command: what a figure needs to be believed."""
    info = get_build_info()
    info = {key: info[key] for key in sorted(info) if key != "cache_dir"}
    if not torch.cuda.is_available():
        info["device"] = cpu_name()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(command if command is not None else ["bsk", *sys.argv[1:]]),
        "commit": _commit(),
        "platform": platform.platform(),
        "cpus": usable_cpus(),
        **info,
    }


def run_case(
    case: Case,
    device: str,
    repetitions: int = 5,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Times one case beside its peers on the threads in force; `step` is called after each round.

    Returns a dict: `name`, `threads`, `kernel`, `plan`, `flops`, `pairs`, `bytes`, `density` (pairs
    / all pairs), `correct`, `max_error` (against fp64, on a sample of rows) and `us`: for each side
    `median`, `least`, `greatest` over the rounds' medians, `rounds`, `method`, and on a GPU
    `gpu_us`, `event_us`, `host_us`.
    """
    inputs = case.make(device)
    Q, K, V, options = inputs
    rivals = peers(case, inputs)
    ours = Peer(OURS, lambda: _forward(inputs))
    correct, error = _check(case, inputs, ours.call())
    sides = [ours, *rivals]
    calls = {side.name: _calls_per_round(side) for side in sides}
    rounds: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for repetition in range(repetitions):
        # There and back again, so that a drift of the clock hits every side alike.
        for side in sides if repetition % 2 == 0 else reversed(sides):
            with side.forced():
                rounds[side.name].append(
                    benchmark_latency(side.call, num_warmup=0, num_iters=calls[side.name])
                )
        step()
    pairs = roofline.selected_pairs(case, options.get("block_mask"))
    all_pairs = case.batch * case.q_heads * case.q_len * case.kv_len
    text = plan(Q, K, V, **options)
    return {
        "name": case.name,
        "threads": torch.get_num_threads(),
        "plan": text,
        "pairs": pairs,
        "density": pairs / all_pairs if all_pairs else 0.0,
        "flops": roofline.flops(case, pairs),
        "bytes": roofline.bytes_moved(case),
        "correct": correct,
        "max_error": error,
        "us": {name: _summary(results) for name, results in rounds.items()},
    }


def peak(device: str) -> tuple[float, str]:
    """(TFLOP/s, what it is): a GPU's data sheet, or what torch's fp32 matrix product reaches on
    the threads in force."""
    if device != "cpu":
        name = torch.cuda.get_device_name(device)
        for known, (tflops, _) in roofline.GPU_PEAKS.items():
            if known in name:
                return tflops, f"{known} data sheet, dense 16-bit"
        return 0.0, f"unknown for {name}"
    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = benchmark_latency(torch.mm, a, b, num_warmup=3, num_iters=15)["min_us"]
    return 2 * size**3 / best / 1e6, f"torch.mm of {size} x {size} fp32, best of 15"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch's intra-op threads set to `count`, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forward(inputs: Inputs) -> Tensor:
    result: Tensor = attention_forward(inputs.Q, inputs.K, inputs.V, **inputs.options)
    return result


def _check(case: Case, inputs: Inputs, output: Tensor) -> tuple[bool, float]:
    count = min(_CHECKED_ROWS, case.q_len)
    rows = torch.linspace(0, case.q_len - 1, count).round().long()
    expected = exact_rows(case, inputs, rows)
    rtol, atol = _TOLERANCE[case.dtype]
    found = output[:, :, rows.to(output.device)].double()
    ok, metrics = validate_correctness(found, expected, rtol, atol)
    return ok, metrics["max_diff"]


def _calls_per_round(side: Peer) -> int:
    with side.forced():
        trial = benchmark_latency(side.call, num_warmup=0, num_iters=1, method="wall")["median_us"]
    return int(min(_MAX_CALLS, max(3.0, _ROUND_US / max(trial, 1.0))))


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    medians = [result["median_us"] for result in results]
    summary: dict[str, Any] = {
        "median": statistics.median(medians),
        "least": min(medians),
        "greatest": max(medians),
        "rounds": len(medians),
        "method": results[0]["method"],
    }
    for clock in ("gpu_us", "event_us", "host_us"):
        values = [result[clock] for result in results if result.get(clock) is not None]
        if values:
            summary[clock] = statistics.median(values)
    return summary


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the source tree that this package runs from; None for an installed wheel."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
