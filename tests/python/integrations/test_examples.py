"""The integrations' examples: each compares with the framework's own attention and must agree."""

from __future__ import annotations

import pathlib
import runpy
import warnings

import pytest

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples"


def run(name: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: int = runpy.run_path(str(EXAMPLES / name))["main"]()
    return result


def test_flash_attn_names() -> None:
    assert run("with_flash_attn_names.py") == 0


@pytest.mark.parametrize("framework", ["transformers", "xformers"])
def test_framework(framework: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(framework, reason=f"{framework} is not installed")
    assert run(f"with_{framework}.py") == 0


def test_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")
    registry = dispatch._AttentionBackendRegistry
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)  # restored after
    assert run("with_diffusers.py") == 0


@pytest.mark.slow
def test_torch_compile() -> None:
    import torch

    torch._dynamo.reset()
    assert run("with_torch_compile.py") == 0
