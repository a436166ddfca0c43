"""One case on the CPU: kernel and peers in turn (ABBA), checked against fp64 in the same run."""

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

from blackwell_sparsek.bench import roofline
from blackwell_sparsek.bench.cases import Case
from blackwell_sparsek.bench.checking import Check
from blackwell_sparsek.bench.peers import OURS, cpu_peers, ours
from blackwell_sparsek.core import get_build_info
from blackwell_sparsek.utils.benchmark import benchmark_latency

_ROUND_US = 250_000.0  # what one round of one side may take
_MAX_CALLS = 100


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
    """Times one case beside its peers on the CPU threads in force; `step` is called after each round.

    Returns a dict: `roofline.facts`, `correct`, `max_error` (against fp64, on a sample of rows),
    `us`: for each side
    `median`, `least`, `greatest` over the rounds' medians, `rounds`, `method`; and `not_run`, why a
    peer is missing.
    """
    inputs = case.make(device)
    rivals, not_run = cpu_peers(case, inputs)
    sides = [ours(inputs), *rivals]
    calls = {side.name: side.bound(inputs) for side in sides}
    correct, error = Check(case, inputs)(calls[OURS]())
    counts = {name: _calls_per_round(call) for name, call in calls.items()}
    rounds: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for repetition in range(repetitions):
        # There and back again, so that a drift of the clock hits every side alike.
        for side in sides if repetition % 2 == 0 else reversed(sides):
            rounds[side.name].append(
                benchmark_latency(calls[side.name], num_warmup=0, num_iters=counts[side.name])
            )
        step()
    return {
        **roofline.facts(case, inputs),
        "correct": correct,
        "max_error": error,
        "us": {name: _summary(results) for name, results in rounds.items()},
        "not_run": not_run,
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


def _calls_per_round(call: Callable[[], Tensor]) -> int:
    trial = benchmark_latency(call, num_warmup=0, num_iters=1)["median_us"]
    return int(min(_MAX_CALLS, max(3.0, _ROUND_US / max(trial, 1.0))))


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    medians = [result["median_us"] for result in results]
    return {
        "median": statistics.median(medians),
        "least": min(medians),
        "greatest": max(medians),
        "rounds": len(medians),
        "method": results[0]["method"],
    }


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
