"""A run of many cases on a GPU: an estimate that is kept, nothing that hangs, nothing that is lost."""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from blackwell_sparsek import UnsupportedError
from blackwell_sparsek.bench import gpu_runner
from blackwell_sparsek.bench.cases import Case
from blackwell_sparsek.bench.gpu_runner import Limits
from blackwell_sparsek.bench.peers import reason

_CASE_SECONDS = 1.5  # making inputs, checking, capturing
_FIRST_SECONDS = 10.0  # context, first loading of kernels
_FLEX_SECONDS = 12.0  # torch.compile of FlexAttention for one more shape
_OVER = 1.25  # of the timed work, as it is an estimate itself
_UNTIMED_CALLS = 60  # of all sides and clocks, to warm up, in dense calls ...
_SLOW_FLOPS = 300e12  # ... at so many FLOP/s
_HANG_SECONDS = 60.0  # that a case may take beyond its share before the process is ended
_LEAST_SECONDS = 0.5  # of timed work, below which a case's figures are not worth having


def estimate(cases: Sequence[Case], limits: Limits) -> float:
    """Seconds that the run may take."""
    return _FIRST_SECONDS + sum(
        _cost(case, seen, limits) for case, seen in _with_flex_shapes(cases)
    )


def fitted(cases: Sequence[Case], limits: Limits, total: float) -> Limits:
    """The limits with the time of a case cut so that the estimate keeps within `total`.

    Raises ValueError where even the least time of a case is too much.
    """
    spare = total - estimate(cases, dataclasses.replace(limits, seconds=0.0))
    seconds = min(limits.seconds, spare / _OVER / max(1, len(cases)))
    if seconds < _LEAST_SECONDS:
        least = estimate(cases, dataclasses.replace(limits, seconds=_LEAST_SECONDS))
        raise ValueError(
            f"seconds: must be at least {least:.0f} for {len(cases)} cases; got {total:g}. "
            "Choose fewer cases (--quick) or peers (--peers)."
        )
    return dataclasses.replace(limits, seconds=seconds)


def run(
    cases: Sequence[Case],
    device: str,
    limits: Limits,
    total: float,
    done: Callable[[dict[str, Any] | None, dict[str, Any] | None], None],
    run_case: Callable[..., dict[str, Any]] = gpu_runner.run_case,
) -> None:
    """Runs the cases until `total` seconds are spent; `done(row, None)` or `done(None, skipped)` is
    called after each, so that it can be kept."""
    started = time.monotonic()
    lost = ""
    for case, new_flex_shape in _with_flex_shapes(cases):
        cost = _cost(case, new_flex_shape, limits)
        left = total - (time.monotonic() - started)
        if lost or cost > left:
            why = lost or f"{left:.0f} s were left of {total:.0f}, it may take {cost:.0f}"
            done(None, {"name": case.name, "reason": why})
            continue
        try:
            with _watched(cost + _HANG_SECONDS):
                row = run_case(case, device, limits)
        except (UnsupportedError, torch.OutOfMemoryError) as error:
            done(None, {"name": case.name, "reason": reason(error)})
        except RuntimeError as error:
            done(None, {"name": case.name, "reason": reason(error), "failed": True})
            lost = _lost_device(device)
        else:
            done(row, None)
        if device != "cpu":
            gc.collect()  # a failed peer's traceback may hold gigabytes
            torch.cuda.empty_cache()


def _with_flex_shapes(cases: Sequence[Case]) -> Iterator[tuple[Case, bool]]:
    """Each case, and whether it is the first of a shape for which FlexAttention is compiled."""
    seen = set()
    for case in cases:
        size = (case.blocks.size, case.blocks.pattern) if case.blocks else None
        shape = dataclasses.replace(case, blocks=None), size
        masked = bool(case.blocks or case.window or case.is_causal)
        yield case, masked and shape not in seen
        seen.add(shape)


def _cost(case: Case, new_flex_shape: bool, limits: Limits) -> float:
    compiling = _FLEX_SECONDS if new_flex_shape and limits.wanted("flex") else 0.0
    steady = 6 * limits.steady_seconds
    dense_flops = 4 * case.batch * case.q_heads * case.q_len * case.kv_len * case.head_dim
    warming = _UNTIMED_CALLS * dense_flops / _SLOW_FLOPS
    return _CASE_SECONDS + _OVER * limits.seconds + warming + compiling + steady


def _lost_device(device: str) -> str:
    """Why no further case can run, or ""."""
    if device == "cpu":
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return f"an earlier case broke the GPU's context: {reason(error)}"
    return ""


@contextmanager
def _watched(seconds: float) -> Iterator[None]:
    """Ends the process with a traceback if what is inside takes longer: a kernel that hangs can't be
    interrupted, and what was measured before is in the file."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
