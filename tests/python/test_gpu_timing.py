"""The GPU's clocks on a pretended GPU: what is inside and what is outside of a time."""

import contextlib

import pytest
import torch

from blackwell_sparsek.utils import _gpu_timing, benchmark, benchmark_latency


class FakeGpu:
    """A device whose time passes only where a kernel runs: a call takes `us`, a replay as many as
    were captured, spinning a millisecond; the host is infinitely fast."""

    def __init__(self, us: float) -> None:
        self.us, self.now = us, 0.0
        self.current = torch.device("cuda:0")
        self.clocked_on: set[torch.device] = set()
        self.captured: list[str] | None = None
        self.refuses_capture = False
        self.calls: list[str] = []

    def call(self, name: str = "call"):
        def run() -> None:
            self.calls.append(name)
            if self.captured is not None:
                if self.refuses_capture:
                    raise RuntimeError("operation not permitted when stream is capturing")
                self.captured.append(name)
            else:
                self.now += self.us

        return run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu(7.0)

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = fake.now
            fake.clocked_on.add(fake.current)

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end) -> float:
            return (end.at - self.at) / 1e3  # milliseconds, as torch's

    class Graph:
        def __init__(self) -> None:
            self.nodes: list[str] = []

        def replay(self) -> None:
            fake.now += fake.us * len(self.nodes)

    class Stream:
        def __init__(self) -> None:
            self.device = fake.current

        def wait_stream(self, other) -> None:
            pass

    @contextlib.contextmanager
    def capturing(graph, stream):
        assert stream.device == fake.current
        fake.captured = graph.nodes
        try:
            yield
        finally:
            fake.captured = None

    @contextlib.contextmanager
    def device(wanted):
        before, fake.current = fake.current, wanted
        yield
        fake.current = before

    def sleep(cycles: int) -> None:
        fake.now += 1000.0

    for name, value in (
        ("Event", Event),
        ("CUDAGraph", Graph),
        ("Stream", Stream),
        ("current_stream", Stream),
        ("stream", lambda stream: contextlib.nullcontext()),
        ("graph", capturing),
        ("device", device),
        ("synchronize", lambda: None),
        ("_sleep", sleep),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_a_replay_is_divided_by_its_nodes_and_holds_no_spinning(gpu: FakeGpu) -> None:
    graph = _gpu_timing.capture([gpu.call()], 50)
    assert graph.nodes == 50
    assert graph.sample_us() == pytest.approx(7.0)
    before = gpu.now
    graph.sample_us()
    assert gpu.now - before == pytest.approx(1000.0 + 50 * 7.0)


def test_a_long_graph_spares_the_spinning(gpu: FakeGpu) -> None:
    gpu.us = 2000.0
    graph = _gpu_timing.capture([gpu.call()], 50)
    graph.sample_us()
    before = gpu.now
    assert graph.sample_us() == pytest.approx(2000.0)
    assert gpu.now - before == pytest.approx(50 * 2000.0)


def test_rotating_calls_are_captured_in_turn(gpu: FakeGpu) -> None:
    _gpu_timing.capture([gpu.call("a"), gpu.call("b"), gpu.call("c")], 7)
    assert gpu.calls[-7:] == ["a", "b", "c", "a", "b", "c", "a"]


def test_what_cannot_be_captured_says_so(gpu: FakeGpu) -> None:
    gpu.refuses_capture = True
    with pytest.raises(_gpu_timing.CaptureError, match="cannot be captured.*not permitted"):
        _gpu_timing.capture([gpu.call()], 5)


def test_samples_of_short_and_long_calls(gpu: FakeGpu) -> None:
    samples, calls = _gpu_timing.graph_samples(gpu.call(), 100)
    assert calls == 200 and len(samples) == 30 and samples[0] == pytest.approx(7.0)
    gpu.us = 10_000.0
    _, calls = _gpu_timing.graph_samples(gpu.call(), 100)
    assert calls == 20, "0.2 s a graph"


def test_events_hold_the_call_alone(gpu: FakeGpu) -> None:
    assert _gpu_timing.spun_event_us(gpu.call()) == pytest.approx(7.0)
    assert _gpu_timing.eager_event_us(gpu.call()) == pytest.approx(7.0)


def test_host_time_is_by_call_and_on_the_hosts_clock(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 10**9, 100_000))  # 0.1 ms from one look to the next
    monkeypatch.setattr(_gpu_timing.time, "perf_counter_ns", lambda: next(ticks))
    assert _gpu_timing.host_us(gpu.call(), 10) == pytest.approx(10.0)
    assert len(gpu.calls) == 10
    assert _gpu_timing.median_host_us(gpu.call()) == pytest.approx(2.0)


def test_a_steady_state_lasts_as_long_as_asked(gpu: FakeGpu) -> None:
    graph = _gpu_timing.capture([gpu.call()], 100)
    asked = []
    before = gpu.now
    found = _gpu_timing.steady_us(graph, 0.05, 7.0, lambda: asked.append(True))
    assert found == pytest.approx(7.0)
    assert gpu.now - before >= 50_000.0
    assert asked == [True]


def test_benchmark_latency_takes_all_clocks(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device of the call's tensors, whichever is the current one."""
    second = torch.device("cuda:1")
    monkeypatch.setattr(benchmark, "_cuda_device", lambda tree: second)
    stats = benchmark_latency(gpu.call(), num_iters=20)
    assert gpu.clocked_on == {second} and gpu.current == torch.device("cuda:0")
    assert (stats["method"], stats["calls_per_sample"]) == ("graph", 200)
    assert stats["gpu_us"] == stats["event_us"] == pytest.approx(7.0)
    assert stats["host_us"] > 0
    gpu.refuses_capture = True
    stats = benchmark_latency(gpu.call(), num_iters=20)
    assert stats["method"] == "event" and stats["gpu_us"] is None
    assert "not permitted" in stats["graph_error"]
