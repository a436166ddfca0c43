"""One case on a GPU by the project's method: every side's clocks, in turn, within a time bound."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from blackwell_sparsek import _C
from blackwell_sparsek.attention import attention_forward
from blackwell_sparsek.bench import gpu_state, mask_building, roofline
from blackwell_sparsek.bench.cases import Case, Inputs
from blackwell_sparsek.bench.checking import Check
from blackwell_sparsek.bench.peers import OURS, OURS_DENSE, Peer, gpu_peers, ours, reason, variants
from blackwell_sparsek.prepared import prepare
from blackwell_sparsek.utils import _gpu_timing

_COLD_BYTES = 250e6  # of rotating inputs: several times the L2 cache
_COLD_UP_TO_US = 300.0  # of what takes longer, reading the inputs is a small part
_MAX_NODES = 200
_MIN_NODES = 3
_REPLAYS_PER_ROUND = (6, 30)  # five rounds of six are the method's 30 replays
_EVENTS_PER_ROUND = (2, 10)
_HOST_CALLS = (4, 50)
_HOST_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a case may take, and how far it goes."""

    seconds: float = 6.0  # of timed work, shared out among sides, clocks and rounds
    rounds: int = 5
    steady_seconds: float = 0.0  # > 0: also a run without a pause, of this length, of each side
    wanted: Callable[[str], bool] = lambda name: True  # which peers
    variants: tuple[str, ...] = ()  # kernels of ours, each timed as a side of its own


class _Side:
    """A side's call, its graphs and what the rounds measured."""

    def __init__(self, peer: Peer, inputs: Inputs) -> None:
        self.peer = peer
        self.call = peer.bound(inputs)
        # The call that writes to a tensor given, and the same prepared.
        self.out_call: Callable[[], Any] | None = None
        self.prepared_call: Callable[[], Any] | None = None
        self.us = 0.0  # a first estimate
        self.graphs: dict[str, Any] = {}
        self.graph_error: str | None = None
        self.samples: dict[str, list[list[float]]] = {}

    def add(self, clock: str, samples: list[float]) -> None:
        self.samples.setdefault(clock, []).append(samples)

    def summary(self) -> dict[str, Any]:
        """Median over the rounds' medians, and their spread; of the other clocks the median."""
        medians = {
            clock: [statistics.median(round_) for round_ in rounds]
            for clock, rounds in self.samples.items()
        }
        headline = medians.get("gpu_us") or medians["spun_us"]
        found: dict[str, Any] = {
            "median": statistics.median(headline),
            "least": min(headline),
            "greatest": max(headline),
            "rounds": len(headline),
            "method": "graph" if "gpu_us" in medians else "event",
        }
        found.update((clock, statistics.median(values)) for clock, values in medians.items())
        if "gpu_us" in self.graphs:
            found["nodes"] = self.graphs["gpu_us"].nodes
            found["replays"] = sum(len(round_) for round_ in self.samples["gpu_us"])
        if self.graph_error is not None:
            found["graph_error"] = self.graph_error
        return found


def run_case(
    case: Case, device: str, limits: Limits = Limits(), clock: Any = _gpu_timing
) -> dict[str, Any]:
    """Times one case beside its peers.

    Returns a dict as `runner.run_case`; each side of `us` has, besides `median`, `least` and
    `greatest` over the rounds' medians of the headline clock, those of these clocks that were taken:
    `gpu_us` (the headline: per node of a graph, inputs warm, kernels of ours kept from
    overlapping), `overlapped_us` (ours with programmatic dependent launch, as users get it),
    `cold_us` (rotating inputs), `spun_us` (event pair behind a spin kernel), `event_us` (event pair
    around an eager call on an idle GPU), `host_us`, `host_out_us` and `host_prepared_us` (time to issue
    a call that allocates its result, is given it, or is given it and was prepared), `steady_us`. `not_run` says why peers are missing;
    `control` is an empty kernel of the same grid.
    """
    started = time.perf_counter()
    inputs = case.make(device, draw_on_device=True)
    Q, K, V, options = inputs
    check = Check(case, inputs)
    first = ours(inputs)
    correct, error = check(first.bound(inputs)())
    rivals, not_run = gpu_peers(case, inputs, limits.wanted)
    sides = [_Side(first, inputs)]
    out = torch.empty_like(first.bound(inputs)())
    sides[0].out_call = functools.partial(attention_forward, Q, K, V, out=out, **options)
    sides[0].prepared_call = functools.partial(prepare(Q, K, V, **options), Q, K, V, out=out)
    for peer in [*variants(inputs, limits.variants), *rivals]:
        side = _Side(peer, inputs)
        wrong = _failure(side, check if peer.same else None)
        if wrong is None:
            sides.append(side)
        else:
            not_run[peer.name] = wrong
    _measure(sides, inputs, limits, clock)
    row: dict[str, Any] = {
        **roofline.facts(case, inputs),
        "correct": correct,
        "max_error": error,
        "us": {side.peer.name: side.summary() for side in sides},
        "not_run": not_run,
    }
    if limits.steady_seconds > 0:
        row["steady_state"] = {
            side.peer.name: _steady(side, row["us"][side.peer.name], limits.steady_seconds, clock)
            for side in sides
            if "gpu_us" in side.graphs
        }
    row["control"] = _control(row["plan"], clock)
    if case.blocks is not None:
        attention_us = row["us"][OURS]["median"]
        row["mask_building"] = mask_building.measure(case, inputs, attention_us, clock)
    row["seconds"] = round(time.perf_counter() - started, 2)
    return row


def _failure(side: _Side, check: Check | None) -> str | None:
    """Why a peer is not timed: it raises, or computes something else. Torch tells by warnings why a
    backend of SDPA does not take a problem."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        failure = _try(side, check)
    if failure is not None and told:
        failure += (
            f" ({'; '.join(str(each.message).split(' (Trigger')[0][:160] for each in told[:6])})"
        )
    return failure


def _try(side: _Side, check: Check | None) -> str | None:
    try:
        with side.peer.forced():
            output = side.call()
            if check is not None:
                same, error = check(output)
                if not same:
                    return f"its result differs from fp64 by {error:.1e}"
            torch.zeros(1, device=output.device).item()  # an asynchronous error shows here
    except Exception as error:
        return reason(error)
    return None


def _measure(sides: list[_Side], inputs: Inputs, limits: Limits, clock: Any) -> None:
    for side in sides:
        with side.peer.forced():
            side.us = min(clock.spun_event_us(side.call) for _ in range(3))
    kinds = {side.peer.name: _graph_kinds(side, inputs) for side in sides}
    # What one clock of one side may take in one round; the eager clocks get as much as one graph.
    shares = sum(len(own) for own in kinds.values()) + len(sides)
    slice_us = limits.seconds * 1e6 / shares / limits.rounds
    rotating = _rotating(inputs) if any("cold_us" in own for own in kinds.values()) else []
    for side in sides:
        _capture(side, kinds[side.peer.name], rotating, slice_us, clock)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(limits.rounds):
            # There and back again, so that a drift of the clock hits every side alike.
            for side in sides if round_ % 2 == 0 else reversed(sides):
                with side.peer.forced():
                    _round(side, slice_us, clock)
    finally:
        if collecting:
            gc.enable()


def _graph_kinds(side: _Side, inputs: Inputs) -> list[str]:
    kinds = ["gpu_us"]
    if side.peer.name == OURS:
        kinds.append("overlapped_us")
    if side.peer.name != OURS_DENSE and side.us < _COLD_UP_TO_US and _cold_sets(inputs) > 1:
        kinds.append("cold_us")
    return kinds


def _capture(
    side: _Side, kinds: list[str], rotating: list[Inputs], slice_us: float, clock: Any
) -> None:
    nodes = _within(slice_us / _REPLAYS_PER_ROUND[0] / side.us, (_MIN_NODES, _MAX_NODES))
    for kind in kinds:
        calls, count = [side.call], nodes
        if kind == "cold_us":
            calls = [side.peer.bound(each) for each in rotating]
            count = max(
                nodes, len(calls)
            )  # a replay comes to every set, so none stays in the cache
        overlapping = contextlib.nullcontext if kind == "overlapped_us" else apart
        try:
            with side.peer.forced(), overlapping():
                side.graphs[kind] = clock.capture(calls, count)
        except clock.CaptureError as error:
            side.graph_error = reason(error)
            return


def _round(side: _Side, slice_us: float, clock: Any) -> None:
    for kind, graph in side.graphs.items():
        least, most = _REPLAYS_PER_ROUND
        if least * graph.nodes * side.us > 2 * slice_us:
            least = 1  # the time bound comes first
        replays = _within(slice_us / (graph.nodes * side.us), (least, most))
        graph.sample_us()  # what ran before has left its own data in the cache
        side.add(kind, [graph.sample_us() for _ in range(replays)])
    events = _within(0.2 * slice_us / side.us, _EVENTS_PER_ROUND)
    side.call()
    side.add("spun_us", [clock.spun_event_us(side.call) for _ in range(events)])
    side.add("event_us", [clock.eager_event_us(side.call) for _ in range(events)])
    for kind, call in (
        ("host_us", side.call),
        ("host_out_us", side.out_call),
        ("host_prepared_us", side.prepared_call),
    ):
        if call is not None:
            calls = _within(0.1 * slice_us / side.us, _HOST_CALLS)
            runs = _HOST_RUNS if calls == _HOST_CALLS[1] else 2
            side.add(kind, [clock.host_us(call, calls) for _ in range(runs)])


def _steady(side: _Side, us: dict[str, Any], seconds: float, clock: Any) -> dict[str, Any]:
    states: list[Any] = []
    graph = side.graphs["gpu_us"]
    with side.peer.forced():
        taken = clock.steady_us(
            graph, seconds, us["gpu_us"], lambda: states.append(gpu_state.gpu_state())
        )
    return {"us": taken, "seconds": seconds, "gpu": states[0] if states else None}


def _control(text: str, clock: Any) -> dict[str, Any]:
    """An empty kernel of the grid that the plan tells, per node of a graph."""
    grid = re.search(r": (\d+) (?:tasks|CTAs) .*?(\d+) threads", text)
    if grid is None:
        return {"error": f"the plan names no grid: {text}"}
    ctas, threads = int(grid[1]), int(grid[2])
    try:
        graph = clock.capture([clock.empty_kernel(ctas, threads)], _MAX_NODES)
        us = statistics.median(graph.sample_us() for _ in range(_REPLAYS_PER_ROUND[1]))
    except Exception as error:  # a private function of torch may fail in any way
        return {"error": reason(error)}
    return {"ctas": ctas, "threads": threads, "us": us}


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Our launches do not overlap the kernel before them."""
    _C.set_programmatic_dependent_launch(False)
    try:
        yield
    finally:
        _C.set_programmatic_dependent_launch(True)


def _cold_sets(inputs: Inputs) -> int:
    size = sum(tensor.numel() * tensor.element_size() for tensor in inputs[:3])
    return max(1, -(-int(_COLD_BYTES) // max(1, size)))


def _rotating(inputs: Inputs) -> list[Inputs]:
    """Inputs of the same shapes and strides, 250 MB in all; what is in `options` they share."""

    def another() -> Inputs:
        Q, K, V = (torch.empty_like(tensor).normal_() for tensor in inputs[:3])
        return Inputs(Q, K, V, inputs.options)

    return [another() for _ in range(_cold_sets(inputs))]


def _within(wanted: float, bounds: tuple[int, int]) -> int:
    return int(min(bounds[1], max(bounds[0], wanted)))
