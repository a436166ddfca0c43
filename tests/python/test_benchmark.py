"""benchmark_latency, compare_to_sdpa and its summary."""

import time

import pytest
import torch

from blackwell_sparsek import attention_forward
from blackwell_sparsek.utils import (
    benchmark_latency,
    compare_to_sdpa,
    print_comparison_summary,
    reference_attention,
)
from blackwell_sparsek.utils.benchmark import statistics_us

STATISTICS = ("mean_us", "median_us", "min_us", "max_us", "std_us", "p95_us", "p99_us")


def test_statistics_of_known_samples() -> None:
    found = statistics_us([float(n) for n in range(1, 101)])
    assert found["mean_us"] == found["median_us"] == 50.5
    assert (found["min_us"], found["max_us"]) == (1.0, 100.0)
    assert found["std_us"] == pytest.approx(29.01149)
    assert found["p95_us"] == pytest.approx(95.05)
    assert found["p99_us"] == pytest.approx(99.01)
    assert statistics_us([3.0])["std_us"] == 0.0


def test_times_are_microseconds_of_one_call() -> None:
    stats = benchmark_latency(time.sleep, 0.005, num_warmup=0, num_iters=5)
    assert 5_000 <= stats["min_us"] <= stats["median_us"] <= stats["max_us"]
    assert stats["median_us"] < 50_000
    assert (stats["method"], stats["num_iters"]) == ("wall", 5)
    assert set(STATISTICS) <= set(stats)


def test_calls_are_counted_and_arguments_passed() -> None:
    calls = []

    def fn(a: int, *, b: int) -> None:
        calls.append((a, b))

    stats = benchmark_latency(fn, 1, num_warmup=3, num_iters=7, method="auto", b=2)
    assert calls == [(1, 2)] * (1 + 3 + 7)
    assert stats["num_samples"] == 7
    assert "gpu_us" not in stats, "a CPU call has no GPU time"


def test_as_the_migration_guide_calls_it() -> None:
    Q = torch.randn(1, 2, 64, 32)
    by_name = benchmark_latency(attention_forward, Q, Q, Q, num_iters=3)
    by_lambda = benchmark_latency(lambda: attention_forward(Q, Q, Q), num_iters=3)
    assert by_name["median_us"] > 0 and by_lambda["median_us"] > 0


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"fn": 3}, TypeError, "fn: must be callable; got int"),
        ({"num_iters": 0}, ValueError, "num_iters: must be >= 1; got 0"),
        ({"num_iters": 2.5}, TypeError, "num_iters: must be an int; got 2.5"),
        ({"num_warmup": -1}, ValueError, "num_warmup: must be >= 0; got -1"),
        ({"method": "cuda"}, ValueError, "method: must be one of .*got 'cuda'"),
        ({"method": "graph"}, ValueError, "method: 'graph' needs a call on a GPU"),
        ({"method": "event"}, ValueError, "method: 'event' needs a call on a GPU"),
    ],
)
def test_wrong_calls(kwargs, error, match) -> None:
    fn = kwargs.pop("fn", torch.zeros)
    with pytest.raises(error, match=match):
        benchmark_latency(fn, 1, **kwargs)


def test_an_error_of_fn_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        benchmark_latency(lambda: 1 / 0)


def inputs(q_heads: int = 2, kv_heads: int = 2):
    generator = torch.Generator().manual_seed(0)
    Q = torch.randn(1, q_heads, 48, 32, generator=generator)
    return (
        Q,
        *(torch.randn(1, kv_heads, 80, 32, generator=generator) for _ in range(2)),
    )


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_compare_to_sdpa(scale: float | None, kv_heads: int) -> None:
    Q, K, V = inputs(kv_heads=kv_heads)
    found = compare_to_sdpa(Q, K, V, scale=scale, num_iters=4, num_warmup=0)
    assert found["is_correct"], found["correctness_metrics"]
    assert found["input_shape"] == (1, 2, 48, 32)
    assert found["method"] == "wall"
    assert found["speedup"] == pytest.approx(found["sdpa_time_us"] / found["kernel_time_us"])
    assert len(found["kernel_rounds"]) == len(found["sdpa_rounds"]) == 2


def test_compare_to_sdpa_sees_a_wrong_kernel() -> None:
    Q, K, V = inputs()
    found = compare_to_sdpa(
        Q, K, V, kernel_fn=lambda Q, K, V: attention_forward(Q, K, V) + 0.1, num_iters=2
    )
    assert not found["is_correct"]
    assert found["correctness_metrics"]["mismatch_rate"] == 1.0


def test_compare_to_sdpa_times_in_turn() -> None:
    Q, K, V = inputs()
    order = []

    def kernel(Q, K, V):
        order.append("kernel")
        return attention_forward(Q, K, V)

    found = compare_to_sdpa(Q, K, V, kernel, num_iters=6, num_warmup=0)
    assert len(order) == 1 + 2 * (1 + 3)
    assert [r["num_iters"] for r in found["kernel_rounds"]] == [3, 3]


def test_compare_to_sdpa_names_a_wrong_argument() -> None:
    Q, K, _ = inputs()
    with pytest.raises(TypeError, match="kernel_fn: must be callable; got NoneType"):
        compare_to_sdpa(Q, K, K, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"V: must be a 4-dimensional torch.Tensor.*got NoneType"):
        compare_to_sdpa(Q, K, None)
    with pytest.raises(ValueError, match="num_iters"):
        compare_to_sdpa(Q, K, K, num_iters=0)


def test_summary_tells_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    Q, K, V = inputs()
    found = compare_to_sdpa(Q, K, V, num_iters=2, num_warmup=0)
    print_comparison_summary(found)
    text = capsys.readouterr().out
    for part in ("[1, 2, 48, 32]", "yes", f"{found['speedup']:.2f}x", "wall", "torch.float32"):
        assert part in text
    wrong = compare_to_sdpa(Q, K, V, lambda *qkv: -attention_forward(*qkv), num_iters=2)
    print_comparison_summary(wrong)
    text = capsys.readouterr().out
    assert "NO" in text and "worst at" in text


def test_summary_of_something_else() -> None:
    with pytest.raises(TypeError, match="comparison: must be a dict; got list"):
        print_comparison_summary([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="speedup"):
        print_comparison_summary({"is_correct": True})


def test_reference_attention_is_fp64_and_takes_every_option() -> None:
    Q, K, V = inputs()
    expected = torch.softmax(Q.double() @ K.double().transpose(-1, -2) * 0.2, -1) @ V.double()
    found = reference_attention(Q, K, V, 0.2)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    mask = torch.rand(48, 80) < 0.5
    mask[0] = False
    output, lse = reference_attention(Q, K, V, attn_mask=mask, softcap=5.0, return_lse=True)
    assert (output[:, :, 0] == 0).all() and (lse[:, :, 0] == -torch.inf).all()
    half = reference_attention(Q.half(), K.half(), V.half())
    torch.testing.assert_close(
        half, reference_attention(Q.half().double(), K.half().double(), V.half().double())
    )
    with pytest.raises(TypeError, match="K: must be a floating-point"):
        reference_attention(Q, K.int(), V)


@pytest.mark.gpu
def test_gpu_clocks() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    x = torch.randn(256, 256, device="cuda")
    stats = benchmark_latency(torch.mm, x, x)
    assert stats["method"] == "graph" and stats["calls_per_sample"] == 200
    assert 0 < stats["gpu_us"] < stats["event_us"] + stats["host_us"]
    synchronising = benchmark_latency(lambda: x + x.sum().item(), method="auto")
    assert synchronising["method"] == "event" and synchronising["gpu_us"] is None
    assert "captur" in synchronising["graph_error"]
    with pytest.raises(RuntimeError, match="captured"):
        benchmark_latency(lambda: x + x.sum().item(), method="graph")
