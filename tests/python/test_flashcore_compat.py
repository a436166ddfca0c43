"""The `flashcore` compatibility package: the old API, computed by BlackwellSparseK or by SDPA."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import blackwell_sparsek
from blackwell_sparsek.core import Config, get_default_config, set_default_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import flashcore
    import flashcore._baseline as baseline
    import flashcore.utils
    from flashcore import FallbackWarning, build_baseline

PACKAGE = Path(__file__).parents[2] / "compat" / "flashcore"
sdpa = torch.nn.functional.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No CUDA_ARCH or DEBUG from outside, every reason unsaid, and the Config put back."""
    monkeypatch.delenv("CUDA_ARCH", raising=False)
    monkeypatch.delenv("DEBUG", raising=False)
    monkeypatch.setattr(baseline, "_said", set())
    yield
    set_default_config(Config())


def _inputs(dtype: torch.dtype = torch.float16, heads: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 4, 65, 64), (2, heads, 65, 64), (2, heads, 65, 64)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def _python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in {"CUDA_ARCH", "DEBUG"}}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )


# forward --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_forward_is_attention_forward_on_the_cpu(dtype: torch.dtype, heads: int) -> None:
    q, k, v = _inputs(dtype, heads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = build_baseline().forward(q, k, v)
    assert torch.equal(out, blackwell_sparsek.attention_forward(q, k, v))
    reference = sdpa(q.double(), k.double(), v.double(), enable_gqa=True)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert (out.double() - reference).abs().max() < tolerance


def test_wrong_inputs_raise_as_in_the_new_library() -> None:
    q, k, v = _inputs()
    with pytest.raises((ValueError, TypeError), match="K"):
        build_baseline().forward(q, k.float(), v)
    with pytest.raises(TypeError, match=r"^Q: must be a torch.Tensor; got ndarray"):
        build_baseline().forward(q.numpy(), k, v)
    with pytest.raises(TypeError):
        build_baseline().forward(q, k, v, True)


UNSUPPORTED = "Unsupported architecture: sm_89 (NVIDIA L4). BlackwellSparseK requires sm_90a."


def _unsupported(*_: Any) -> torch.Tensor:
    raise blackwell_sparsek.UnsupportedError(UNSUPPORTED)


def test_an_unsupported_gpu_is_computed_by_sdpa_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What attention_forward raises on an L4 is raised here; no L4 is needed."""
    monkeypatch.setattr(blackwell_sparsek, "attention_forward", _unsupported)
    q, k, v = _inputs(heads=2)
    kernel = build_baseline()
    with pytest.warns(FallbackWarning, match="sm_89") as said:
        first = kernel.forward(q, k, v)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = build_baseline().forward(q, k, v)
    assert torch.equal(first, sdpa(q, k, v, enable_gqa=True))
    assert torch.equal(first, second)


def test_inputs_that_require_grad_are_computed_by_sdpa_and_differentiable() -> None:
    q, k, v = _inputs(torch.float32)
    q.requires_grad_()
    with pytest.warns(FallbackWarning, match="grad"):
        build_baseline().forward(q, k, v).sum().backward()
    assert q.grad is not None


def test_errors_of_other_kinds_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(blackwell_sparsek, "attention_forward", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        build_baseline().forward(*_inputs())


def test_without_blackwell_sparsek_sdpa_computes_and_the_utilities_say_what_is_missing() -> None:
    code = """
import sys, warnings
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "blackwell_sparsek":
            raise ModuleNotFoundError("absent", name="blackwell_sparsek")
sys.meta_path.insert(0, Absent())
import torch
from flashcore import build_baseline
from flashcore.utils import validate_correctness
q = torch.randn(1, 2, 8, 16)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    kernel = build_baseline(verbose=True)
    out = kernel.forward(q, q, q)
assert torch.equal(out, torch.nn.functional.scaled_dot_product_attention(q, q, q))
assert "not installed" in str(said[0].message), said
try:
    validate_correctness(out, out)
except ImportError as error:
    assert "pip install blackwell-sparsek" in str(error), error
else:
    raise SystemExit("no error")
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert "SDPA" in done.stdout


# Utilities ------------------------------------------------------------------------------------


def test_validate_correctness_returns_a_bool() -> None:
    reference = torch.tensor([1.0, 2.0, 3.0])
    assert flashcore.utils.validate_correctness(reference + 1e-3, reference) is True
    assert flashcore.utils.validate_correctness(reference + 1e-1, reference) is False
    assert flashcore.utils.validate_correctness(reference + 1e-1, reference, atol=1.0) is True
    assert flashcore.utils.validate_correctness(reference + 1e-1, reference, rtol=1.0) is True
    assert flashcore.utils.validate_correctness(reference * torch.nan, reference) is False
    with pytest.raises(ValueError, match="shape"):
        flashcore.utils.validate_correctness(reference[:2], reference)


def test_benchmark_latency_calls_the_function_and_reports() -> None:
    calls = []
    stats = flashcore.utils.benchmark_latency(lambda: calls.append(1), num_iters=7, num_warmup=3)
    assert stats["num_iters"] == 7
    assert 0 < stats["min_us"] <= stats["median_us"] <= stats["max_us"]
    assert len(calls) >= 10
    assert flashcore.utils.benchmark_latency(lambda: None, 5)["num_iters"] == 5


# Environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "arch"), [("90", "90a"), ("90a", "90a"), ("100", "100a"), ("100a", "100a")]
)
def test_a_supported_cuda_arch_is_put_in_force(
    value: str, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_ARCH", value)
    assert get_default_config().cuda_arch is None
    build_baseline()
    assert get_default_config().cuda_arch == arch


def test_cuda_arch_89_sends_gpu_tensors_to_sdpa_and_leaves_the_cpu_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_ARCH", "89")
    kernel = build_baseline(verbose=True)
    assert "CUDA_ARCH=89" in capsys.readouterr().out
    assert get_default_config().cuda_arch is None
    q, k, v = _inputs()
    assert torch.equal(kernel.forward(q, k, v), blackwell_sparsek.attention_forward(q, k, v))
    # Fake tensors are on a GPU as far as the choice goes; nothing computes on them.
    with torch._subclasses.FakeTensorMode():
        q, k, v = (torch.empty(1, 2, 8, 16, dtype=torch.float16, device="cuda") for _ in range(3))
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **_: a)
        with pytest.warns(FallbackWarning, match="Unsupported architecture: sm_89"):
            assert kernel.forward(q, k, v) == (q, k, v)


@pytest.mark.parametrize(
    ("value", "debug"),
    [("1", True), ("true", True), ("ON", True), ("0", False), ("no", False), ("", False)],
)
def test_debug_is_put_in_force_and_logs_each_forward(
    value: str, debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_default_config(Config(debug_mode=not debug, fallback="sdpa"))
    monkeypatch.setenv("DEBUG", value)
    kernel = build_baseline()
    assert get_default_config().debug_mode is debug
    assert get_default_config().fallback == "sdpa"
    kernel.forward(*_inputs())
    logged = capsys.readouterr().err
    assert ("[2, 4, 65, 64]" in logged and "by blackwell_sparsek" in logged) is debug


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA_ARCH", "8.9"), ("CUDA_ARCH", "sm_89"), ("CUDA_ARCH", "L4"), ("DEBUG", "maybe")],
)
def test_bad_values_are_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name}: must be .*got '{value}'"):
        build_baseline()


def test_without_settings_the_configuration_stays_untouched() -> None:
    set_default_config(Config(debug_mode=True))
    before = get_default_config()
    build_baseline()
    assert get_default_config() is before


def test_verbose_says_where_it_computes(capsys: pytest.CaptureFixture[str]) -> None:
    build_baseline()
    assert capsys.readouterr().out == ""
    build_baseline(verbose=True)
    assert f"blackwell_sparsek {blackwell_sparsek.__version__}" in capsys.readouterr().out


# Deprecation and distribution -----------------------------------------------------------------


def test_one_deprecation_warning_per_process_at_the_importing_line() -> None:
    code = (
        "import flashcore\nimport flashcore.utils\nfrom flashcore import build_baseline\n"
        "import importlib\nimportlib.reload(flashcore)\nbuild_baseline()"
    )
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("DeprecationWarning") == 1
    assert "<string>:1" in done.stderr
    assert "blackwell_sparsek.attention_forward" in done.stderr
    assert "bsk migrate" in done.stderr


def test_the_distribution_is_its_own_and_not_for_publication() -> None:
    metadata = importlib.metadata.metadata("flashcore")
    assert "Private :: Do Not Upload" in (metadata.get_all("Classifier") or [])
    requirements = importlib.metadata.requires("flashcore") or []
    assert [r.split(">")[0].strip() for r in requirements] == ["torch"]
    assert (PACKAGE / "README.md").is_file()
    assert "2025-12-01" in (PACKAGE / "DEPRECATION_NOTICE.md").read_text("utf-8")
    assert not any(
        part.startswith("flashcore/") and part.endswith(".so")
        for part in map(str, importlib.metadata.files("flashcore") or [])
    )
