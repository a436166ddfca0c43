"""`compare_to_sdpa`: this library beside torch's attention, in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek.attention import attention_forward
from blackwell_sparsek.utils.benchmark import benchmark_latency
from blackwell_sparsek.utils.validation import validate_correctness

__all__ = ["compare_to_sdpa", "print_comparison_summary"]

_KEYS = (
    "is_correct",
    "correctness_metrics",
    "sdpa_time_us",
    "kernel_time_us",
    "speedup",
    "input_shape",
    "method",
)


def compare_to_sdpa(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    kernel_fn: Callable[..., Tensor] = attention_forward,
    scale: float | None = None,
    rtol: float = 1e-3,
    atol: float = 2e-3,
    *,
    num_warmup: int = 10,
    num_iters: int = 100,
    method: str = "auto",
) -> dict[str, Any]:
    """Correctness and speed of `kernel_fn(Q, K, V)` against `scaled_dot_product_attention`.

    The two are timed in turn (kernel, SDPA, SDPA, kernel), by the same method. Full attention,
    without masks.

    Args:
        Q: [batch, q_heads, q_len, head_dim]; K, V: [batch, kv_heads, kv_len, head_dim(v)].
        kernel_fn: called as `kernel_fn(Q, K, V)`, with `scale=scale` where a scale is given.
        rtol, atol: see `validate_correctness`.
        num_warmup, num_iters, method: see `benchmark_latency`; num_iters is the total per side.

    Returns:
        A dict: `is_correct`, `correctness_metrics`, `sdpa_time_us` and `kernel_time_us` (median of
        a call: the mean of the two rounds' medians), `speedup` (SDPA's time over the kernel's),
        `input_shape` (of Q), `kv_shape`, `dtype`, `device`, `method`, and `sdpa_rounds`,
        `kernel_rounds`: what `benchmark_latency` said each time.

    Raises:
        TypeError, ValueError: as `kernel_fn`, `validate_correctness` and `benchmark_latency`.
    """
    for name, tensor in (("Q", Q), ("K", K), ("V", V)):
        if not isinstance(tensor, Tensor) or tensor.dim() != 4:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(
                f"{name}: must be a 4-dimensional torch.Tensor [batch, heads, length, head_dim]; "
                f"got {got}. Add the missing dimensions."
            )
    if not callable(kernel_fn):
        raise TypeError(
            f"kernel_fn: must be callable; got {type(kernel_fn).__name__}. "
            "Leave it out to compare attention_forward."
        )
    options: dict[str, Any] = {} if scale is None else {"scale": scale}

    def kernel() -> Tensor:
        return kernel_fn(Q, K, V, **options)

    def sdpa() -> Tensor:
        grouped = Q.shape[1] != K.shape[1]
        return scaled_dot_product_attention(Q, K, V, enable_gqa=grouped, **options)

    is_correct, metrics = validate_correctness(kernel(), sdpa(), rtol, atol)
    rounds: dict[str, list[dict[str, Any]]] = {"kernel": [], "sdpa": []}
    for name in ("kernel", "sdpa", "sdpa", "kernel"):
        rounds[name].append(
            benchmark_latency(
                kernel if name == "kernel" else sdpa,
                num_warmup=num_warmup,
                num_iters=max(1, -(-num_iters // 2)) if num_iters > 0 else num_iters,
                method=method,
            )
        )
    methods = {r["method"] for side in rounds.values() for r in side}
    if len(methods) > 1:  # one side could not be captured: a graph is no match for an event pair
        return compare_to_sdpa(
            Q, K, V, kernel_fn, scale, rtol, atol,
            num_warmup=num_warmup, num_iters=num_iters, method="event",
        )  # fmt: skip
    times = {name: sum(r["median_us"] for r in side) / 2 for name, side in rounds.items()}
    return {
        "is_correct": is_correct,
        "correctness_metrics": metrics,
        "sdpa_time_us": times["sdpa"],
        "kernel_time_us": times["kernel"],
        "speedup": times["sdpa"] / times["kernel"],
        "input_shape": tuple(Q.shape),
        "kv_shape": tuple(K.shape),
        "dtype": str(Q.dtype),
        "device": str(Q.device),
        "method": methods.pop(),
        "sdpa_rounds": rounds["sdpa"],
        "kernel_rounds": rounds["kernel"],
    }


def print_comparison_summary(comparison: dict[str, Any]) -> None:
    """Prints what `compare_to_sdpa` returned, as a table.

    Raises:
        TypeError, ValueError: `comparison` is not such a dict.
    """
    from rich.console import Console
    from rich.table import Table

    if not isinstance(comparison, dict):
        raise TypeError(
            f"comparison: must be a dict; got {type(comparison).__name__}. "
            "Pass what compare_to_sdpa returned."
        )
    missing = [key for key in _KEYS if key not in comparison]
    if missing:
        raise ValueError(
            f"comparison: must have the keys of compare_to_sdpa; got none of {missing}. "
            "Pass what compare_to_sdpa returned."
        )
    metrics = comparison["correctness_metrics"]
    title = f"attention {list(comparison['input_shape'])}"
    for key in ("dtype", "device"):
        title += f", {comparison[key]}" if key in comparison else ""
    table = Table(title=title, show_header=False)
    verdict = "[green]yes[/]" if comparison["is_correct"] else "[red]NO[/]"
    table.add_row("agrees with SDPA", verdict)
    table.add_row("largest difference", f"{metrics['max_diff']:.3g}")
    table.add_row(
        "elements beyond tolerance", f"{metrics['num_mismatches']} of {metrics['num_elements']}"
    )
    if not comparison["is_correct"]:
        table.add_row(
            "worst at",
            f"{metrics['worst_diff_location']}: {metrics['worst_diff_output']:.6g}, "
            f"SDPA {metrics['worst_diff_reference']:.6g}",
        )
    table.add_row("SDPA", f"{comparison['sdpa_time_us']:.2f} us")
    table.add_row("this kernel", f"{comparison['kernel_time_us']:.2f} us")
    table.add_row("speedup", f"{comparison['speedup']:.2f}x")
    table.add_row("timed by", str(comparison["method"]))
    Console().print(table)
