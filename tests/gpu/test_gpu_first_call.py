"""The first call of a process: from embedded machine code, compiled, from the cache, in trouble."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpu_tools
from blackwell_sparsek.bench import first_call as bench
from blackwell_sparsek.bench.first_call import PACKAGED
from gpu_tools import needs_cuda

pytestmark = [gpu_tools.gpu_only(), needs_cuda]

needs_sources = pytest.mark.skipif(
    not PACKAGED.is_dir(), reason="this build of the package holds no kernels"
)


def start(kernels: Path | None, cache: Path) -> subprocess.Popen[str]:
    return bench.start(bench.CASES["documented"], "cuda", cache, kernels=kernels)


def finish(child: subprocess.Popen[str]) -> dict[str, Any]:
    report = bench.finish(child, 100)
    assert report.get("correct"), report
    return report


def first_call(kernels: Path | None, cache: Path) -> dict[str, Any]:
    return finish(start(kernels, cache))


@pytest.fixture
def sources_only(tmp_path: Path) -> Path:
    return bench.sources_alone(tmp_path)


@pytest.mark.timed
@pytest.mark.skipif(not (PACKAGED / "cubins").is_dir(), reason="this build embeds no cubins")
def test_embedded(tmp_path: Path, figure: Callable[[str], None]) -> None:
    cache = tmp_path / "cache"
    report = first_call(None, cache)
    figure(f"first call, {report['origin']}: {report['seconds']:.3f} s")
    assert report["origin"] == "embedded" and report["warnings"] == []
    assert not cache.exists()  # nothing was compiled, so nothing was written
    assert report["seconds"] < 0.2


@pytest.mark.timed
@needs_sources
def test_compiled_and_then_cached(
    sources_only: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    for origin in ("compiled", "disk cache"):
        report = first_call(sources_only, tmp_path / "cache")
        figure(f"first call, {report['origin']}: {report['seconds']:.3f} s")
        assert report["origin"] == origin and report["warnings"] == []


@needs_sources
def test_a_damaged_cache_file_is_replaced(sources_only: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first_call(sources_only, cache)
    whole = {path: path.read_bytes() for path in cache.glob("*.bskcubin")}
    assert whole
    for damage in (lambda b: b[: len(b) // 2], lambda b: b[:-100] + bytes(100)):
        for path, content in whole.items():
            path.write_bytes(damage(content))
        report = first_call(sources_only, cache)
        assert report["origin"] == "compiled"
        assert any("compiled anew" in text for text in report["warnings"])
        assert {path: path.stat().st_size for path in whole} == {
            path: len(content) for path, content in whole.items()
        }


@needs_sources
def test_a_cache_that_cannot_be_written_is_a_warning(sources_only: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = first_call(sources_only, tmp_path / "file/cache")
    assert report["origin"] == "compiled"
    assert any("cannot be written" in text for text in report["warnings"])


@needs_sources
def test_eight_processes_at_once(sources_only: Path, tmp_path: Path) -> None:
    children = [start(sources_only, tmp_path / "cache") for _ in range(8)]
    reports = [finish(child) for child in children]
    assert {report["origin"] for report in reports} <= {"compiled", "disk cache"}
    assert first_call(sources_only, tmp_path / "cache")["origin"] == "disk cache"
