"""Two GPUs of one process: what counts is where the tensors are, not which device is current."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

import gpu_tools
from blackwell_sparsek import BlockMask, attention_forward, prepare
from blackwell_sparsek.utils import benchmark_latency
from gpu_tools import check, forced, needs_cuda, randn, takers

pytestmark = [
    gpu_tools.gpu_only(),
    needs_cuda,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")
BOTH = (FIRST, SECOND)
SHAPES = ((300, 300), (1100, 1100), (1, 5000))  # the small, the throughput and the split kernel's


@pytest.fixture(autouse=True)
def _stays_on_the_first() -> Iterator[None]:
    """No call changes the current device."""
    torch.cuda.set_device(FIRST)
    yield
    assert torch.cuda.current_device() == FIRST.index
    torch.cuda.synchronize(SECOND)


def problem(device: torch.device, q_len: int, kv_len: int, seed: int = 0) -> list[Tensor]:
    """The same numbers on every device."""
    lengths = (q_len, kv_len, kv_len)
    return [randn(1, 4, n, 64, seed=seed + i).to(device) for i, n in enumerate(lengths)]


def masks(device: torch.device, q_len: int, kv_len: int) -> list[dict[str, Any]]:
    keep = (randn(1, 1, q_len, kv_len, seed=7) > 0).to(device)
    keep[..., 0] = True
    blocks = BlockMask.random(
        q_len, kv_len, 0.5, block_size=64, generator=torch.Generator().manual_seed(0)
    ).to(device)
    return [
        {},
        {"is_causal": "lower_right", "window": (200, 0)},
        {"attn_mask": keep},
        {"block_mask": blocks},
    ]


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device):
        yield
        assert torch.cuda.current_device() == device.index


@pytest.mark.parametrize("shape", SHAPES)
def test_every_kernel_on_either_device_under_either(shape: tuple[int, int]) -> None:
    for index in range(len(masks(FIRST, *shape))):
        tensors = problem(FIRST, *shape)
        options = masks(FIRST, *shape)[index]
        for kernel in takers(*tensors, **options):
            with forced(kernel):
                expected, lse = attention_forward(*tensors, return_lse=True, **options)
                for device in BOTH:
                    here, rules = problem(device, *shape), masks(device, *shape)[index]
                    for other in BOTH:
                        out = torch.full_like(here[0], torch.nan)
                        with current(other):
                            got, got_lse = attention_forward(
                                *here, return_lse=True, out=out, **rules
                            )
                        what = f"{kernel}, {options.keys()}, on {device} under {other}"
                        assert got is out and got_lse.device == device, what
                        assert torch.equal(got.to(FIRST), expected), what
                        assert torch.equal(got_lse.to(FIRST), lse), what


def test_the_second_device_is_right_by_itself() -> None:
    for shape in SHAPES:
        check(*problem(SECOND, *shape), is_causal="lower_right")


def test_block_masks_are_built_where_their_inputs_are() -> None:
    scores = randn(1, 4, 5, 5, seed=3)
    ids = torch.arange(300, device=FIRST) // 70
    Q, K, _ = problem(FIRST, 300, 300)

    def build(device: torch.device) -> list[BlockMask]:
        there = scores.to(device)
        sizes: dict[str, int] = {"block_size": 64, "q_len": 300, "kv_len": 300}
        return [
            BlockMask.sliding_window(300, 300, 70, sink=4, block_size=64, device=device),
            BlockMask.document(ids.to(device), max_document_len=70, block_size=64),
            BlockMask.from_dense(there > 0, 64, q_len=300, kv_len=300),
            BlockMask.top_k(there, 2, **sizes),
            BlockMask.cumulative_mass(there, 0.8, **sizes),
            BlockMask.top_k(
                BlockMask.pooled_scores(Q.to(device), K.to(device), block_size=64), 2, **sizes
            ),
        ]

    expected = build(FIRST)
    with current(FIRST):
        built = build(SECOND)
    for mask, reference in zip(built, expected, strict=True):
        assert mask.full_counts.device == SECOND
        assert torch.equal(mask.to_dense().to(FIRST), reference.to_dense())
        assert torch.equal(
            mask.to_dense_mask(300, 300).to(FIRST), reference.to_dense_mask(300, 300)
        )


def test_the_current_stream_of_the_tensors_device_is_followed() -> None:
    """Inputs made late on a stream of the second device, while the first one is current."""
    tensors, late = (problem(SECOND, 300, 300, seed) for seed in (0, 10))
    expected = attention_forward(*late)
    attention_forward(*tensors)
    torch.cuda.synchronize(SECOND)
    before = torch.cuda.current_stream(SECOND)
    torch.cuda.set_stream(torch.cuda.Stream(SECOND))
    try:
        torch.cuda._sleep(20_000_000)
        for tensor, numbers in zip(tensors, late, strict=True):
            tensor.copy_(numbers)
        torch.cuda.set_device(FIRST)
        result = attention_forward(*tensors)
        later = result.clone()
        tensors[0].fill_(torch.nan)  # after the launch on that stream: must not be seen
    finally:
        torch.cuda.set_stream(before)
        torch.cuda.set_device(FIRST)
    torch.cuda.synchronize(SECOND)
    assert torch.equal(later, expected)


def test_threads_with_a_device_each() -> None:
    """Half of them make their device the current one; the others leave it at the first."""
    workers = [(device, chosen) for device in BOTH for chosen in (True, False)] * 2
    expected = {
        shape: attention_forward(*problem(FIRST, *shape), is_causal="lower_right")
        for shape in SHAPES
    }
    start = Barrier(len(workers))

    problems = {device: {shape: problem(device, *shape) for shape in SHAPES} for device in BOTH}

    def work(device: torch.device, chosen: bool) -> list[str]:
        if chosen:
            torch.cuda.set_device(device)
        start.wait(30)
        outputs = [
            (shape, attention_forward(*tensors, is_causal="lower_right"))
            for _ in range(30)
            for shape, tensors in problems[device].items()
        ]
        there = FIRST if not chosen else device
        wrong = [
            f"{shape} on {device} under {there}"
            for shape, output in outputs
            if output.device != device or not torch.equal(output.to(FIRST), expected[shape])
        ]
        if torch.cuda.current_device() != there.index:
            wrong.append(f"the current device is not {there}")
        return wrong

    for device in BOTH:
        torch.cuda.synchronize(device)
    with ThreadPoolExecutor(len(workers)) as pool:
        for future in [pool.submit(work, *worker) for worker in workers]:
            assert future.result(timeout=60) == []


def test_a_graph_of_the_second_device_replays_under_the_first() -> None:
    for shape in SHAPES:
        tensors = problem(SECOND, *shape)
        dense = torch.ones(1, 4, -(-shape[0] // 64), -(-shape[1] // 64), dtype=torch.bool)
        mask = BlockMask.from_dense(dense.to(SECOND), 64, q_len=shape[0], kv_len=shape[1])
        for kernel in takers(*tensors, block_mask=mask):
            with forced(kernel):
                attention_forward(*tensors, block_mask=mask)
                graph = torch.cuda.CUDAGraph()
                stream = torch.cuda.Stream(SECOND)  # torch's own is the first capture's device's
                with current(SECOND), torch.cuda.graph(graph, stream=stream):
                    out, lse = attention_forward(*tensors, block_mask=mask, return_lse=True)
                for seed in (100, 200):
                    fresh = problem(SECOND, *shape, seed)
                    kept = torch.rand(dense.shape, generator=torch.Generator().manual_seed(seed))
                    with current(SECOND):
                        for tensor, numbers in zip(tensors, fresh, strict=True):
                            tensor.copy_(numbers)
                        mask.update_((kept < 0.6).to(SECOND))
                        out.fill_(torch.nan)
                    graph.replay()
                    eager, eager_lse = attention_forward(*tensors, block_mask=mask, return_lse=True)
                    assert torch.equal(out, eager) and torch.equal(lse, eager_lse), kernel


@pytest.mark.parametrize("name", ["K", "V", "attn_mask", "block_mask", "out"])
def test_tensors_on_different_devices(name: str) -> None:
    for here, there in ((FIRST, SECOND), (SECOND, FIRST)):
        arguments: dict[str, Any] = dict(zip("QKV", problem(here, 300, 300), strict=True))
        if name in "KV":
            arguments[name] = arguments[name].to(there)
        elif name == "attn_mask":
            arguments[name] = torch.ones(300, 300, dtype=torch.bool, device=there)
        elif name == "block_mask":
            arguments[name] = BlockMask.sliding_window(300, 300, 70, block_size=64, device=there)
        else:
            arguments[name] = torch.empty(1, 4, 300, 64, dtype=torch.float16, device=there)
        for device in BOTH:
            with (
                current(device),
                pytest.raises(
                    ValueError, match=rf"^{name}: must be on Q's device, {here}; got {there}"
                ),
            ):
                attention_forward(**arguments)
        del arguments[name]
        if name not in "KV":  # nothing was spoilt
            assert attention_forward(**arguments).isfinite().all()


def test_a_prepared_call_serves_both_devices() -> None:
    expected = attention_forward(*problem(FIRST, 300, 300), is_causal=True)
    for made_on, called_on in ((SECOND, FIRST), (FIRST, SECOND)):
        prepared = prepare(*problem(made_on, 300, 300), is_causal=True)
        for device in (made_on, called_on, made_on):
            result = prepared(*problem(device, 300, 300))
            assert result.device == device and torch.equal(result.to(FIRST), expected)


def test_the_careful_path_on_the_second_device() -> None:
    """Through torch's dispatcher, as under autocast."""
    tensors = problem(SECOND, 300, 300)
    expected = attention_forward(*tensors)
    with torch.autocast("cuda", torch.float16):
        result = attention_forward(*(tensor.float() for tensor in tensors))
    assert result.device == SECOND and torch.equal(result, expected)


@pytest.mark.timed
def test_times_are_those_of_the_tensors_device() -> None:
    """An event on the idle first device would read next to nothing, and so would a graph of it."""
    benchmark_latency(attention_forward, *problem(FIRST, 300, 300), num_iters=10)
    tensors = problem(SECOND, 1100, 1100)
    under_first = benchmark_latency(attention_forward, *tensors, num_iters=30)
    with current(SECOND):
        under_second = benchmark_latency(attention_forward, *tensors, num_iters=30)
    for clock in ("gpu_us", "event_us"):
        assert 0.5 < under_first[clock] / under_second[clock] < 2, (under_first, under_second)
