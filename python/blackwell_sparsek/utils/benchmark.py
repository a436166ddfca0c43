"""`benchmark_latency`: how long one call takes, and by which clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from blackwell_sparsek.utils import _gpu_timing

__all__ = ["benchmark_latency", "statistics_us"]

METHODS = ("auto", "graph", "event", "wall")


def benchmark_latency(
    fn: Callable[..., Any],
    *args: Any,
    num_warmup: int = 10,
    num_iters: int = 100,
    method: str = "auto",
    **kwargs: Any,
) -> dict[str, Any]:
    """Times `fn(*args, **kwargs)`; all times in microseconds per call.

    A call is on a GPU where its arguments or its result hold a CUDA tensor: on the first one's, which
    is the current device while it is timed.

    Args:
        fn: what to time; `benchmark_latency(lambda: f(x))` works as well as
            `benchmark_latency(f, x)`.
        num_warmup: calls before the first timed one (at least one call is made besides, to find
            the device).
        num_iters: timed calls. 'graph' makes at least 30 replays, so it may make more.
        method: 'graph': replays of one CUDA graph of 200 calls (fewer where these take above
            0.2 s), GPU time; 'event': event pair around each call behind a spin kernel, GPU time;
            'wall': the host's clock, on a GPU with a synchronisation. 'auto': 'graph', or 'event'
            where `fn` cannot be captured; 'wall' on the CPU.

    Returns:
        A dict: `mean_us, median_us, min_us, max_us, std_us, p95_us, p99_us` over the samples,
        `num_iters` (as asked for), `num_samples`, `calls_per_sample`, `method` (the one used). On a
        GPU also `gpu_us` (median of graph replays per call, None where `fn` cannot be captured, and
        then `graph_error` says why), `event_us` (median event pair around one eager call on an idle
        GPU) and `host_us` (time to issue one call).

    Raises:
        TypeError: `fn` is not callable, or a count is not an int.
        ValueError: a count below its least, an unknown method, or 'graph' or 'event' on the CPU.
        RuntimeError: method='graph' and `fn` cannot be captured.
    """
    _check(fn, num_warmup, num_iters, method)

    def call() -> Any:
        return fn(*args, **kwargs)

    device = _cuda_device((args, kwargs, call()))
    if device is None:
        if method in ("graph", "event"):
            raise ValueError(
                f"method: {method!r} needs a call on a GPU; got one without CUDA tensors. "
                "Use method='auto' or 'wall'."
            )
        for _ in range(num_warmup):
            call()
        return _result(_wall_samples(call, num_iters), num_iters, "wall")
    with torch.cuda.device(device):  # whose clock it is that an event or a graph reads
        for _ in range(num_warmup):
            call()
        return _gpu_result(call, num_iters, method)


def statistics_us(samples: Sequence[float]) -> dict[str, float]:
    """Mean, median, extremes, standard deviation (0 for one sample), 95th and 99th percentile."""
    values = torch.tensor(samples, dtype=torch.float64)
    return {
        "mean_us": float(values.mean()),
        "median_us": _quantile(samples, 0.5),
        "min_us": float(values.min()),
        "max_us": float(values.max()),
        "std_us": float(values.std()) if len(samples) > 1 else 0.0,
        "p95_us": _quantile(samples, 0.95),
        "p99_us": _quantile(samples, 0.99),
    }


def _gpu_result(call: Callable[[], Any], num_iters: int, method: str) -> dict[str, Any]:
    graph: list[float] | None = None
    calls, graph_error = 1, None
    if method != "wall":
        try:
            graph, calls = _gpu_timing.graph_samples(call, num_iters)
        except _gpu_timing.CaptureError as error:
            if method == "graph":
                raise
            graph_error = str(error)
    if method == "wall":
        result = _result(_gpu_timing.wall_samples(call, num_iters), num_iters, "wall")
    elif method == "event" or graph is None:
        samples = [_gpu_timing.spun_event_us(call) for _ in range(num_iters)]
        result = _result(samples, num_iters, "event")
    else:
        result = _result(graph, num_iters, "graph", calls)
    result["gpu_us"] = None if graph is None else _quantile(graph, 0.5)
    if graph_error is not None:
        result["graph_error"] = graph_error
    eager = [_gpu_timing.eager_event_us(call) for _ in range(num_iters)]
    result["event_us"] = _quantile(eager, 0.5)
    result["host_us"] = _gpu_timing.median_host_us(call)
    return result


def _result(
    samples: Sequence[float], num_iters: int, method: str, calls_per_sample: int = 1
) -> dict[str, Any]:
    return {
        **statistics_us(samples),
        "num_iters": num_iters,
        "num_samples": len(samples),
        "calls_per_sample": calls_per_sample,
        "method": method,
    }


def _quantile(samples: Sequence[float], q: float) -> float:
    return float(torch.tensor(samples, dtype=torch.float64).quantile(q))


def _wall_samples(call: Callable[[], Any], num_iters: int) -> list[float]:
    samples = []
    for _ in range(num_iters):
        start = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - start) / 1e3)
    return samples


def _cuda_device(tree: Any) -> torch.device | None:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and leaf.is_cuda:
            return leaf.device
    return None


def _check(fn: object, num_warmup: object, num_iters: object, method: object) -> None:
    if not callable(fn):
        raise TypeError(
            f"fn: must be callable; got {type(fn).__name__}. Pass the function and its arguments, "
            "benchmark_latency(attention_forward, Q, K, V), or a lambda."
        )
    for name, count, least in (("num_warmup", num_warmup, 0), ("num_iters", num_iters, 1)):
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"{name}: must be an int; got {count!r}. Pass a whole number.")
        if count < least:
            raise ValueError(f"{name}: must be >= {least}; got {count}. Pass a larger number.")
    if method not in METHODS:
        raise ValueError(f"method: must be one of {METHODS}; got {method!r}. Choose one of them.")
