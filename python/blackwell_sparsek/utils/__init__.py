"""Checking and timing: is the result right, how long does a call take, how does it compare."""

from blackwell_sparsek.utils.benchmark import benchmark_latency
from blackwell_sparsek.utils.comparison import compare_to_sdpa, print_comparison_summary
from blackwell_sparsek.utils.reference import reference_attention
from blackwell_sparsek.utils.validation import validate_correctness

__all__ = [
    "benchmark_latency",
    "compare_to_sdpa",
    "print_comparison_summary",
    "reference_attention",
    "validate_correctness",
]
