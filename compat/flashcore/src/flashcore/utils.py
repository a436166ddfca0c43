"""FlashCore's two utilities, by those of BlackwellSparseK, with FlashCore's return types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["benchmark_latency", "validate_correctness"]


def validate_correctness(
    output: Tensor, reference: Tensor, rtol: float = 1e-3, atol: float = 2e-3
) -> bool:
    """Whether every element of `output` is within `atol + rtol * |reference|` of `reference`.

    NaN or inf where the reference has none is a mismatch. Raises ValueError or TypeError if shapes
    or dtypes differ. `blackwell_sparsek.utils.validate_correctness` returns metrics besides.
    """
    is_correct, _ = _new_utils().validate_correctness(output, reference, rtol=rtol, atol=atol)
    return bool(is_correct)


def benchmark_latency(
    fn: Callable[[], object], num_iters: int = 100, num_warmup: int = 10
) -> dict[str, Any]:
    """Latency of `fn()` over `num_iters` calls: a dict with `median_us` and further statistics."""
    stats: dict[str, Any] = _new_utils().benchmark_latency(
        fn, num_warmup=num_warmup, num_iters=num_iters
    )
    return stats


def _new_utils() -> Any:
    try:
        from blackwell_sparsek import utils
    except ModuleNotFoundError as error:
        if error.name != "blackwell_sparsek":
            raise
        raise ImportError(
            "flashcore.utils needs BlackwellSparseK, which is not installed: "
            "pip install blackwell-sparsek."
        ) from error
    return utils
