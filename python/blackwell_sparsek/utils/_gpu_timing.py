"""Three clocks for a call on a GPU: graph replay, event pair, host. Microseconds throughout.

Written by the method of the project's performance notes; not yet run on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

GRAPH_CALLS = 200
MIN_REPLAYS = 30
_GRAPH_BUDGET_US = 200_000.0  # a graph longer than this needs no 200 calls to hide its launch
_MIN_GRAPH_CALLS = 10
_HOST_CALLS = 50  # launches that fit the GPU's queue without waiting
_HOST_REPEATS = 5
_SPIN_CYCLES = 200_000  # about 0.1 ms: longer than it takes to issue one call

Call = Callable[[], Any]


class CaptureError(RuntimeError):
    """The call cannot be captured in a CUDA graph."""


def graph_samples(call: Call, num_iters: int) -> tuple[list[float], int]:
    """GPU time per call: replays of one graph of many calls. Returns samples and calls per graph.

    Raises CaptureError where the call cannot be captured (it synchronises, for instance).
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture asks for a warm-up on a side stream
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    calls = int(_GRAPH_BUDGET_US / max(1.0, _event_pair(call)))
    calls = max(_MIN_GRAPH_CALLS, min(GRAPH_CALLS, calls))
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                call()
    except RuntimeError as error:
        torch.cuda.synchronize()
        raise CaptureError(f"fn cannot be captured in a CUDA graph: {error}") from error
    replays = max(MIN_REPLAYS, -(-num_iters // calls))
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    return [_event_pair(graph.replay) / calls for _ in range(replays)], calls


def spun_event_samples(call: Call, num_iters: int) -> list[float]:
    """GPU time of one eager call: event pairs behind a spin kernel, which gives the host time to
    issue the whole call before the first event is reached."""
    samples = []
    for _ in range(num_iters):
        torch.cuda._sleep(_SPIN_CYCLES)  # type: ignore[no-untyped-call, unused-ignore]
        samples.append(_event_pair(call))
    return samples


def eager_event_samples(call: Call, num_iters: int) -> list[float]:
    """Event pair around one eager call on an idle GPU: includes the launch itself, so that even an
    empty kernel reads several microseconds."""
    samples = []
    for _ in range(num_iters):
        torch.cuda.synchronize()
        samples.append(_event_pair(call))
    return samples


def host_us(call: Call) -> float:
    """Time to issue one call: the median over repeats of a short run that never fills the queue."""
    repeats = []
    for _ in range(_HOST_REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        for _ in range(_HOST_CALLS):
            call()
        repeats.append((time.perf_counter_ns() - start) / 1e3 / _HOST_CALLS)
    torch.cuda.synchronize()
    return sorted(repeats)[len(repeats) // 2]


def wall_samples(call: Call, num_iters: int) -> list[float]:
    """Call and synchronise, by the host's clock."""
    samples = []
    for _ in range(num_iters):
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        call()
        torch.cuda.synchronize()
        samples.append((time.perf_counter_ns() - start) / 1e3)
    return samples


def _event_pair(call: Call) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3
