"""The clocks for calls on a GPU: graph replay, event pairs, host. Microseconds throughout.

By the method of docs/lab_notes.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

GRAPH_CALLS = 200
MIN_REPLAYS = 30
_GRAPH_BUDGET_US = 200_000.0  # a graph longer than this needs no 200 calls to hide its launch
_MIN_GRAPH_CALLS = 10
_HOST_CALLS = 50  # launches that fit the GPU's queue without waiting
_HOST_REPEATS = 5
_SPIN_CYCLES = 200_000  # about 0.1 ms: longer than it takes to issue one call
_SPIN_CYCLES_PER_NODE = 2_000  # about 1 us: more than a node adds to the launch of a graph
_SPIN_UP_TO_US = 50_000.0  # of what takes longer, the launch is nothing

Call = Callable[[], Any]


class CaptureError(RuntimeError):
    """The call cannot be captured in a CUDA graph."""


class Graph:
    """A CUDA graph of `nodes` calls."""

    def __init__(self, graph: torch.cuda.CUDAGraph, nodes: int, calls: Sequence[Call]) -> None:
        self.nodes = nodes
        self._graph = graph
        self._calls = calls  # and with them the tensors whose memory the graph reads
        self._spins = True

    def replay(self) -> None:
        """Enqueues one replay."""
        self._graph.replay()

    def sample_us(self) -> float:
        """GPU time per call of one replay, without the time that launching the graph takes."""
        if self._spins:
            spin(_SPIN_CYCLES + self.nodes * _SPIN_CYCLES_PER_NODE)
        total = event_us(self._graph.replay)
        self._spins = total < _SPIN_UP_TO_US
        return total / self.nodes


def capture(calls: Sequence[Call], nodes: int) -> Graph:
    """A graph of `nodes` calls, taking `calls` in turn.

    Raises CaptureError where they cannot be captured (they synchronise, for instance).
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture asks for a warm-up on a side stream
        for _ in range(3):
            calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        # Torch's own capture stream is one for all devices: that of the first capture.
        with torch.cuda.graph(graph, stream=side):
            for node in range(nodes):
                calls[node % len(calls)]()
    except RuntimeError as error:
        torch.cuda.synchronize()
        raise CaptureError(f"fn cannot be captured in a CUDA graph: {error}") from error
    captured = Graph(graph, nodes, calls)
    captured.replay()
    torch.cuda.synchronize()
    return captured


def graph_samples(call: Call, num_iters: int) -> tuple[list[float], int]:
    """GPU time per call: replays of one graph of many calls. Returns samples and calls per graph.

    Raises CaptureError where the call cannot be captured.
    """
    call()
    torch.cuda.synchronize()
    calls = int(_GRAPH_BUDGET_US / max(1.0, event_us(call)))
    graph = capture([call], max(_MIN_GRAPH_CALLS, min(GRAPH_CALLS, calls)))
    replays = max(MIN_REPLAYS, -(-num_iters // graph.nodes))
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    return [graph.sample_us() for _ in range(replays)], graph.nodes


def spun_event_us(call: Call) -> float:
    """GPU time of one eager call: an event pair behind a spin kernel, which gives the host time to
    issue the whole call before the first event is reached."""
    spin()
    return event_us(call)


def eager_event_us(call: Call) -> float:
    """Event pair around one eager call on an idle GPU: includes the launch itself, so that even an
    empty kernel reads several microseconds."""
    torch.cuda.synchronize()
    return event_us(call)


def host_us(call: Call, calls: int = _HOST_CALLS) -> float:
    """Time to issue one call: a run that is too short to fill the queue."""
    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    elapsed = time.perf_counter_ns() - start
    torch.cuda.synchronize()
    return elapsed / 1e3 / calls


def median_host_us(call: Call) -> float:
    """The median of a few runs of `host_us`."""
    return sorted(host_us(call) for _ in range(_HOST_REPEATS))[_HOST_REPEATS // 2]


def steady_us(graph: Graph, seconds: float, us: float, query: Callable[[], Any]) -> float:
    """GPU time per call over at least `seconds` of replays without a pause, where a call takes about
    `us`; `query` is called from another thread when more than half of them have run."""
    replays = int(seconds * 1e6 / (us * graph.nodes)) + 1

    def later() -> None:
        time.sleep(0.6 * seconds)
        query()

    def run() -> None:
        for _ in range(replays):
            graph.replay()

    thread = threading.Thread(target=later)
    thread.start()
    total = event_us(run)
    thread.join()
    return total / (replays * graph.nodes)


def empty_kernel(ctas: int, threads: int) -> Call:
    """A launch of a kernel that does nothing, on so many CTAs: the floor of any kernel of that grid.

    Raises RuntimeError where this torch cannot compile one.
    """
    return functools.partial(_compiled_empty_kernel(), grid=(ctas, 1, 1), block=(threads, 1, 1))


@functools.cache
def _compiled_empty_kernel() -> Callable[..., Any]:
    compile_kernel = getattr(torch.cuda, "_compile_kernel", None)
    if compile_kernel is None:
        raise RuntimeError("this torch has no torch.cuda._compile_kernel")
    kernel: Callable[..., Any] = compile_kernel(
        'extern "C" __global__ void empty_kernel() {}', "empty_kernel"
    )
    return kernel


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


def spin(cycles: int = _SPIN_CYCLES) -> None:
    """Enqueues a kernel that only takes time."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call, unused-ignore]


def event_us(call: Call) -> float:
    """Event pair around a call."""
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3
