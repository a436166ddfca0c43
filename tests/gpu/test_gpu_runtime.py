"""Streams, CUDA graphs, devices and host synchronisation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import gpu_tools
from blackwell_sparsek import BlockMask, attention_forward
from gpu_tools import DEVICE, exact, forced, generator, needs_cuda, qkv, randn, takers

pytestmark = [gpu_tools.gpu_only(), needs_cuda]


@contextmanager
def no_host_synchronisation() -> Iterator[None]:
    """torch raises where one of its operations waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def busy_stream(milliseconds: int = 200) -> Iterator[torch.cuda.Event]:
    """The current stream has work of that length before what is issued inside."""
    torch.cuda._sleep(int(milliseconds * 2e6))  # clock ticks, at about 2 GHz
    issued = torch.cuda.Event()
    yield issued
    issued.record()


def test_the_guard_against_synchronisation_works() -> None:
    with no_host_synchronisation(), pytest.raises(RuntimeError, match="synchroniz"):
        randn(4).sum().item()


def test_calls_and_builders_do_not_wait_for_the_device() -> None:
    Q, K, V = qkv(2, 4, 2, 300, 300, 64)
    ids = torch.arange(300, device=DEVICE) // 70
    scores = torch.randn(1, 4, 5, 5, device=DEVICE)
    keep = randn(2, 1, 1, 300) > 0

    def work() -> list[torch.Tensor]:
        masks = [
            BlockMask.sliding_window(300, 300, 70, sink=4, block_size=64, device=DEVICE),
            BlockMask.document(ids, max_document_len=70, block_size=64),
            BlockMask.top_k(scores, 2, block_size=64, q_len=300, kv_len=300),
            BlockMask.from_dense(scores > 0, 64, q_len=300, kv_len=300),
            BlockMask.cumulative_mass(scores, 0.8, block_size=64, q_len=300, kv_len=300),
        ]
        results = [attention_forward(Q, K, V, block_mask=mask, is_causal=True) for mask in masks]
        results.append(attention_forward(Q, K, V, attn_mask=keep, softcap=5.0))
        results.append(attention_forward(Q, K, V, window=(30, 0), return_lse=True)[0])
        return results

    expected = work()  # kernels are compiled and loaded here
    with no_host_synchronisation(), busy_stream() as issued:
        results = work()
    assert not issued.query(), "the host waited: the device had finished when the calls returned"
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_a_side_stream_is_followed() -> None:
    """Inputs made late on the side stream: a launch on another stream would read what was before."""
    for kernel in takers(*qkv(1, 2, 2, 300, 300, 64)):
        Q, K, V = (randn(1, 2, 300, 64, seed=i) for i in range(3))
        late = [randn(1, 2, 300, 64, seed=i + 10) for i in range(3)]
        reference, _ = exact(*late)
        with forced(kernel):
            attention_forward(Q, K, V)
            torch.cuda.synchronize()
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(20_000_000)
                for tensor, numbers in zip((Q, K, V), late, strict=True):
                    tensor.copy_(numbers)
                result = attention_forward(Q, K, V)
                later = result.clone()
                Q.fill_(torch.nan)  # after the launch on this stream: must not be seen
            torch.cuda.synchronize()
        torch.testing.assert_close(later.double(), reference, rtol=1e-2, atol=1e-2)


def test_the_stream_of_a_torch_that_does_not_tell_it() -> None:
    """As torch 2.10, whose DLPack has no C interface: torch itself is asked for its stream."""
    code = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
from blackwell_sparsek import attention_forward
Q, K, V, *late = (torch.randn(1, 2, 300, 64, device="cuda", dtype=torch.float16) for _ in range(6))
expected = attention_forward(*late)
attention_forward(Q, K, V)
torch.cuda.synchronize()
with torch.cuda.stream(torch.cuda.Stream()):
    torch.cuda._sleep(20_000_000)
    for tensor, numbers in zip((Q, K, V), late):
        tensor.copy_(numbers)
    result = attention_forward(Q, K, V)
torch.cuda.synchronize()
assert torch.equal(result, expected)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_launches_back_to_back_wait_for_each_other() -> None:
    """Each call reads what the one before wrote; programmatic launches may overlap only elsewhere."""
    for length, dim in ((128, 64), (512, 64), (300, 128)):
        Q, K, V = (randn(1, 8, length, dim, seed=i) for i in range(3))
        for kernel in takers(Q, K, V):
            with forced(kernel):
                chains = []
                for wait in (True, False):
                    x, other = Q.clone(), torch.empty_like(Q)
                    for _ in range(40):
                        attention_forward(x, K, V, out=other)
                        if wait:
                            torch.cuda.synchronize()
                        x, other = other, x  # the buffer that was read is written next
                    chains.append(x.clone())
            assert torch.equal(chains[0], chains[1]), f"{kernel}, {length} x {dim}"


def test_a_graph_replays_with_changed_inputs() -> None:
    for length, dim in ((512, 64), (300, 128), (1100, 64)):
        Q, K, V = (randn(2, 4, length, dim, seed=i) for i in range(3))
        for kernel in takers(Q, K, V, is_causal=True):
            with forced(kernel):
                attention_forward(Q, K, V, is_causal=True, return_lse=True)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    out, lse = attention_forward(Q, K, V, is_causal=True, return_lse=True)
                for seed in (100, 200):
                    for i, tensor in enumerate((Q, K, V)):
                        tensor.copy_(randn(*tensor.shape, seed=seed + i))
                    out.fill_(torch.nan)
                    graph.replay()
                    eager, eager_lse = attention_forward(Q, K, V, is_causal=True, return_lse=True)
                    assert torch.equal(out, eager) and torch.equal(lse, eager_lse), kernel


@pytest.mark.parametrize("built", ["before", "inside"])
def test_a_graph_replays_with_a_changed_block_mask(built: str) -> None:
    """The mask's buffers get new contents (update_), or the mask is built inside the graph."""
    Q, K, V = (randn(1, 4, 512, 64, seed=i) for i in range(3))
    dense = torch.ones(1, 4, 8, 8, dtype=torch.bool, device=DEVICE)
    mask = BlockMask.from_dense(dense, 64)
    attention_forward(Q, K, V, block_mask=mask)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        used = BlockMask.from_dense(dense, 64) if built == "inside" else mask
        out = attention_forward(Q, K, V, block_mask=used, is_causal=True)
    for seed in range(3):
        new = torch.rand(1, 4, 8, 8, generator=generator(seed), device=DEVICE) < 0.4
        dense.copy_(new)
        mask.update_(new)
        out.fill_(torch.nan)
        graph.replay()
        fresh = BlockMask.from_dense(new, 64)
        assert torch.equal(out, attention_forward(Q, K, V, block_mask=fresh, is_causal=True))
        reference, _ = exact(Q, K, V, block_mask=fresh, is_causal=True)
        torch.testing.assert_close(out.double(), reference, rtol=1e-2, atol=1e-2)


def test_a_graph_of_two_hundred_calls() -> None:
    """As benchmarks capture: many launches of one graph, each depending on the one before."""
    Q, K, V = (randn(1, 8, 128, 64, seed=i) for i in range(3))
    buffers = [Q.clone(), torch.empty_like(Q)]
    attention_forward(buffers[0], K, V, out=buffers[1])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(200):
            attention_forward(buffers[i % 2], K, V, out=buffers[1 - i % 2])
    results = []
    for _ in range(2):
        buffers[0].copy_(Q)
        graph.replay()
        results.append(buffers[0].clone())
    buffers[0].copy_(Q)
    for i in range(200):
        attention_forward(buffers[i % 2], K, V, out=buffers[1 - i % 2])
        torch.cuda.synchronize()
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], buffers[0])


def test_first_call_inside_a_capture() -> None:
    """A shape that was never called: loading its kernel must not break the capture."""
    Q, K, V = (randn(1, 2, 77, 48, seed=i) for i in range(3))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention_forward(Q, K, V)
    graph.replay()
    assert torch.equal(out, attention_forward(Q, K, V))


def test_nothing_is_allocated_but_the_results() -> None:
    Q, K, V = qkv(2, 4, 2, 512, 512, 64)
    out = torch.empty(2, 4, 512, 64, dtype=Q.dtype, device=DEVICE)
    attention_forward(Q, K, V, out=out)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(20):
        attention_forward(Q, K, V, out=out, is_causal=True)
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    attention_forward(Q, K, V)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before + 1


def test_the_results_memory_waits_for_streams_that_still_read_it() -> None:
    """`record_stream` on a result: its memory is not given out again while that stream is busy."""
    Q, K, V = qkv(2, 4, 2, 512, 512, 64)
    result = attention_forward(Q, K, V)
    address, stream = result.data_ptr(), torch.cuda.Stream()
    with torch.cuda.stream(stream), busy_stream():
        result.record_stream(stream)
    del result
    assert attention_forward(Q, K, V).data_ptr() != address
    torch.cuda.synchronize()
