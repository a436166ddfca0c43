"""The shared case lists of bench/cases.py: SMOKE, EDGE and a drawn sweep, in both dtypes."""

from __future__ import annotations

import dataclasses

import pytest

import gpu_tools
from blackwell_sparsek.bench.cases import EDGE, SMOKE, Case, sweep

pytestmark = gpu_tools.gpu_only()


def _in_half_precision(cases: tuple[Case, ...], dtypes: tuple[str, ...]) -> list[Case]:
    return [dataclasses.replace(case, dtype=dtype) for case in cases for dtype in dtypes]


# Each drawn case needs kernels of its own, compiled for seconds: half of them in each dtype.
DRAWN = sweep(48, seed=11)
CASES = [
    *_in_half_precision((*SMOKE, *EDGE), ("fp16", "bf16")),
    *_in_half_precision(DRAWN[::2], ("fp16",)),
    *_in_half_precision(DRAWN[1::2], ("bf16",)),
]


@pytest.mark.parametrize("case", {c.name: c for c in CASES}.values(), ids=lambda c: c.name)
def test_case(case: Case) -> None:
    Q, K, V, options = case.make(gpu_tools.DEVICE)
    gpu_tools.check(Q, K, V, **options)
