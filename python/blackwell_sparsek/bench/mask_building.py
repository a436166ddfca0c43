"""What it takes to build the mask of a case, beside the attention that it steers."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from blackwell_sparsek.bench.cases import Case, Inputs
from blackwell_sparsek.bench.peers import create_flex_block_mask, flex_block_mask, reason
from blackwell_sparsek.block_mask import BlockMask

_NODES, _REPLAYS, _EVENTS, _HOST_RUNS = 20, 10, 5, 5


def measure(case: Case, inputs: Inputs, attention_us: float, clock: Any) -> dict[str, Any]:
    """For each builder `gpu_us` (per node of a graph), `spun_us`, `host_us`, and `share`: its GPU
    time over the attention's. FlexAttention's builders have `wall_us`, as they wait for the GPU
    themselves: `create_block_mask` of the case's rules, and for random blocks `from_kv_blocks` of the
    dense block tensor. A builder that fails has `error` instead."""
    found = {
        name: _timed(build, attention_us, clock) for name, build in builders(case, inputs).items()
    }
    found["flex_create_block_mask"] = _wall(create_flex_block_mask, case, inputs, attention_us)
    if case.blocks is not None and case.blocks.pattern == "random":
        found["flex_from_kv_blocks"] = _wall(flex_block_mask, case, inputs, attention_us)
    return found


def builders(case: Case, inputs: Inputs) -> dict[str, Callable[[], BlockMask]]:
    """Ours: from a dense block tensor and by the best scores, of the case's own density."""
    mask: BlockMask = inputs.options["block_mask"]
    lengths: dict[str, Any] = {"q_len": case.q_len, "kv_len": case.kv_len}
    dense = mask.to_dense()
    found: dict[str, Callable[[], BlockMask]] = {
        "from_dense": lambda: BlockMask.from_dense(dense, mask.block_size, **lengths)
    }
    if case.blocks is not None and case.blocks.pattern == "random":
        best = round(case.blocks.density * mask.kv_blocks)
        scores = torch.rand(dense.shape, device=dense.device)
        found["top_k"] = lambda: BlockMask.top_k(
            scores, best, block_size=mask.block_size, **lengths
        )
    elif case.blocks is not None:
        found[case.blocks.pattern] = functools.partial(case.make_blocks, dense.device)
    return found


def _timed(build: Callable[[], Any], attention_us: float, clock: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        build()
        try:
            graph = clock.capture([build], _NODES)
            gpu_us = statistics.median(graph.sample_us() for _ in range(_REPLAYS))
            found["gpu_us"] = gpu_us
        except clock.CaptureError as error:
            found["graph_error"] = reason(error)
        found["spun_us"] = statistics.median(clock.spun_event_us(build) for _ in range(_EVENTS))
        found["host_us"] = statistics.median(clock.host_us(build, 10) for _ in range(_HOST_RUNS))
    except Exception as error:
        return {**found, "error": reason(error)}
    found["share"] = found.get("gpu_us", found["spun_us"]) / attention_us
    return found


def _wall(
    build: Callable[[Case, Inputs], Any], case: Case, inputs: Inputs, attention_us: float
) -> dict[str, Any]:
    samples = []
    try:
        for _ in range(3):
            start = time.perf_counter_ns()
            mask = build(case, inputs)
            mask.kv_num_blocks.sum().item()
            samples.append((time.perf_counter_ns() - start) / 1e3)
    except Exception as error:
        return {"error": reason(error)}
    us = statistics.median(samples)
    return {"wall_us": us, "share": us / attention_us}
