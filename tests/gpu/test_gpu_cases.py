"""The shared case lists of bench/cases.py: SMOKE, EDGE and a drawn sweep, in both dtypes."""

from __future__ import annotations

import dataclasses

import pytest

import gpu_tools
from blackwell_sparsek.bench.cases import EDGE, SMOKE, Case, sweep

pytestmark = gpu_tools.gpu_only()

LISTS = {"smoke": SMOKE, "edge": EDGE, "sweep": sweep(40, seed=11)}


def _both_dtypes(cases: tuple[Case, ...]) -> list[Case]:
    halves = [
        dataclasses.replace(case, dtype=dtype) for case in cases for dtype in ("fp16", "bf16")
    ]
    return list({case.name: case for case in halves}.values())


@pytest.mark.parametrize(
    "case", [case for cases in LISTS.values() for case in _both_dtypes(cases)], ids=lambda c: c.name
)
def test_case(case: Case) -> None:
    Q, K, V, options = case.make(gpu_tools.DEVICE)
    gpu_tools.check(Q, K, V, **options)
