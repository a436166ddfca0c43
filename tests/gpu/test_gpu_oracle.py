"""The oracle of the GPU tests against the library's fp64 reference; runs without a GPU."""

from __future__ import annotations

import pytest
import torch

import gpu_tools
from blackwell_sparsek.bench.cases import EDGE, SMOKE, Case, sweep
from oracle_tools import oracle


@pytest.mark.parametrize("case", (*SMOKE, *EDGE, *sweep(60, seed=3)), ids=lambda c: c.name)
def test_the_torch_oracle_equals_cpu_reference(case: Case) -> None:
    Q, K, V, options = case.make("cpu")
    expected, expected_lse = oracle(Q, K, V, **options)
    result, lse = gpu_tools.exact(Q, K, V, **options)
    torch.testing.assert_close(result, expected.double(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lse, expected_lse.double(), rtol=1e-6, atol=1e-6)


def test_the_check_finds_an_error_of_two_spacings() -> None:
    reference = torch.linspace(-1, 1, 64, dtype=torch.float64)
    good = reference.half()
    gpu_tools.assert_close(good, reference, good)
    wrong = good.clone()
    wrong[63] += 4 * torch.finfo(torch.float16).eps
    with pytest.raises(AssertionError, match="error"):
        gpu_tools.assert_close(wrong, reference, good)
    wrong[63] = torch.nan
    with pytest.raises(AssertionError, match="NaN in other places"):
        gpu_tools.assert_close(wrong, reference, good)
    gpu_tools.MARGINS.clear()  # of no kernel
