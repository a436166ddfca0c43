"""The GPU side as Python sees it, without a GPU: packed sources, compiling, cache, commands."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from blackwell_sparsek import _C, _engine, attention_forward
from blackwell_sparsek._nvrtc import nvrtc_libraries
from blackwell_sparsek.cli import app
from blackwell_sparsek.commands import compile as compile_module
from blackwell_sparsek.core import Config, set_default_config

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "scripts/pack_kernel_sources.py"
needs_nvrtc = pytest.mark.skipif(
    not nvrtc_libraries(), reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc"
)


def vehicle(threads: int, config: str = "vehicle::Config<{}>") -> tuple[str, str, str, str, str]:
    """The tests' small kernel, in a configuration of its own: a process remembers what it found."""
    source = "src/cuda/vehicle/scale.cuh"
    return (f"vehicle_p{threads}", source, "vehicle::scale", config.format(threads), "90a")


@pytest.fixture
def kernel_dir(tmp_path: Path) -> Iterator[Path]:
    """The tests' kernel in place of the package's, and an empty cache in `tmp_path / "cache"`."""
    packed = tmp_path / "kernels"
    files = ROOT / "tests/cuda/host/vehicle/src"
    (packed / "source").mkdir(parents=True)
    (packed / "source/src").symlink_to(files)
    (packed / "source.digest").write_text("digest of the tests\n")
    set_default_config(Config(build_dir=tmp_path / "cache"))
    _C.set_engine_places(str(packed), nvrtc_libraries(), "")
    yield packed
    _engine.set_places()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_importing_opens_neither_driver_nor_compiler() -> None:
    code = "import blackwell_sparsek; print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not re.search(r"libcuda\.so|libnvrtc", maps.stdout)


def test_status_is_made_of_sentences() -> None:
    status = _C.engine_status()
    for name in ("driver", "compiler"):
        available, sentence, *_ = status[name]
        assert isinstance(available, bool)
        assert len(sentence.split()) > 2


@needs_nvrtc
def test_a_kernel_is_compiled_once_and_then_listed_and_cleared(kernel_dir: Path) -> None:
    origin, seconds, size, log = _C.compile_kernel(*vehicle(32))
    assert origin == "compiled" and seconds > 0 and size > 1000
    assert "registers" in log
    code, output = run("cache", "--json")
    contents = json.loads(output)
    assert code == 0
    assert contents["files"] == 1 and contents["bytes"] >= size
    assert contents["folder"] == str(kernel_dir.parent / "cache")
    assert [kernel["name"] for kernel in contents["kernels"]] == ["vehicle_p32"]
    assert "vehicle_p32" in run("cache")[1]
    assert run("cache", "--clear") == (0, "1 compiled kernels removed, 0 left.\n")
    assert json.loads(run("cache", "--json")[1])["files"] == 0


@needs_nvrtc
def test_a_cache_that_cannot_be_written_is_a_warning(kernel_dir: Path) -> None:
    (kernel_dir / "file").touch()
    set_default_config(Config(build_dir=kernel_dir / "file/cache"))
    with pytest.warns(RuntimeWarning, match="cannot be written.*BSK_BUILD_DIR"):
        assert _C.compile_kernel(*vehicle(64))[0] == "compiled"


def test_a_notice_that_is_made_an_error_is_raised_by_a_call(kernel_dir: Path) -> None:
    """Not taken for a reason to compute the call another way, and so lost."""
    (kernel_dir / "cubins").mkdir()
    name = "n" * 300  # longer than a file's name may be
    with pytest.raises(RuntimeError, match="Cannot compile|nvrtcCompileProgram"):
        _C.compile_kernel(name, "no/such.cuh", "entry", "Config", "90a")
    Q = torch.randn(1, 1, 4, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="cannot be read"):
            attention_forward(Q, Q, Q)
        attention_forward(Q, Q, Q)


def test_compile_command_takes_the_configured_architecture(kernel_dir: Path) -> None:
    set_default_config(Config(cuda_arch="100a"))
    assert run("compile", "--list") == (
        2,
        "No documented kernel of this build matches '*' on sm_100a.\n",
    )
    assert run("compile", "--list", "--arch", "90a")[0] == 0


@needs_nvrtc
def test_compile_command_fills_the_cache(kernel_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        compile_module._C, "documented_kernels", lambda: [vehicle(96), vehicle(128)]
    )
    assert run("compile", "--list") == (0, "vehicle_p96\nvehicle_p128\n")
    code, output = run("compile")
    assert code == 0
    assert output.count("compiled") == 2 and "sm_90a" in output
    assert _C.kernel_cache_stats()[1] == 2
    code, output = run("compile", "*p96", "--arch", "90a")
    assert code == 0 and "vehicle_p128" not in output
    assert run("compile", "--arch", "100a")[0] == 2
    assert run("compile", "no_such_kernel")[0] == 2
    set_default_config(Config(build_dir="/proc/no"))
    code, output = run("compile")
    assert code == 1 and "/proc/no cannot be written" in output


@needs_nvrtc
def test_compile_command_ends_with_1_where_a_kernel_does_not_compile(
    kernel_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = vehicle(160, "vehicle::NoSuchConfig")
    monkeypatch.setattr(compile_module._C, "documented_kernels", lambda: [broken, vehicle(192)])
    code, output = run("compile")
    assert code == 1
    assert "NoSuchConfig" in output and "vehicle_p192" in output


def pack(root: Path, out: Path, *include_dirs: Path) -> subprocess.CompletedProcess[str]:
    options = [text for folder in include_dirs for text in ("--include-dir", str(folder))]
    command = [sys.executable, str(PACK), "--root", str(root), "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def small_tree(tmp_path: Path) -> tuple[Path, Path]:
    """A repository of one kernel, and include folders that hold what it includes."""
    licence = "// SPDX-License-Identifier: BSD-3-Clause\n"
    root, headers = tmp_path / "root", tmp_path / "headers"
    texts = {
        root / "src/cuda/k/kernel.cuh": '#include "src/cuda/k/config.h"\n'
        "#include <cutlass/cutlass.h>\n",
        root / "src/cuda/k/config.h": "#ifdef NEVER\n#  include <cutlass/half.h>\n#endif\n",
        root / "src/cuda/k/launch.cc": "not device code\n",
        headers / "cutlass/cutlass.h": f"{licence}#include CUDA_STD_HEADER(cstdint)\n"
        "#include <vector>\n#include <cuda_fp16.h>\n",
        headers / "cutlass/unused.h": licence,
        headers / "cutlass/half.h": licence,
        tmp_path / "cccl/cuda/std/cstdint": f'{licence}#include "below/types.h"\n',
        tmp_path / "cccl/cuda/std/below/types.h": licence,
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root, headers


def test_packing_follows_every_include(small_tree: tuple[Path, Path], tmp_path: Path) -> None:
    root, headers = small_tree
    out = tmp_path / "out"
    assert pack(root, out, headers, tmp_path / "cccl").returncode == 0
    source = out / "source"
    names = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert names == {
        "src/cuda/k/kernel.cuh",
        "src/cuda/k/config.h",
        "cutlass/cutlass.h",
        "cutlass/half.h",
        "cccl/cuda/std/cstdint",
        "cccl/cuda/std/below/types.h",
    }


def test_the_digest_follows_the_contents(small_tree: tuple[Path, Path], tmp_path: Path) -> None:
    root, headers = small_tree
    out = tmp_path / "out"

    def digest() -> str:
        assert pack(root, out, headers, tmp_path / "cccl").returncode == 0
        return (out / "source.digest").read_text()

    first = digest()
    assert digest() == first
    with (tmp_path / "cccl/cuda/std/below/types.h").open("a") as file:
        file.write("// changed\n")
    assert digest() != first
    (root / "src/cuda/k/config.h").write_text("")
    digest()
    assert not (out / "source/cutlass/half.h").exists()  # no longer included


def test_packing_refuses_what_it_cannot_follow(
    small_tree: tuple[Path, Path], tmp_path: Path
) -> None:
    root, headers = small_tree
    (root / "src/cuda/k/config.h").write_text("#include SOME_MACRO\n")
    result = pack(root, tmp_path / "out", headers, tmp_path / "cccl")
    assert result.returncode == 1 and "config.h: cannot follow" in result.stderr
    result = pack(root, tmp_path / "out", headers)
    assert result.returncode == 1 and "pip install --no-deps nvidia-cutlass" in result.stderr


def test_packing_refuses_what_may_not_travel(small_tree: tuple[Path, Path], tmp_path: Path) -> None:
    root, headers = small_tree
    places = (headers, tmp_path / "cccl")
    (headers / "cutlass/half.h").write_text("// NVIDIA's End User License Agreement\n")
    result = pack(root, tmp_path / "out", *places)
    assert result.returncode == 1 and "cutlass/half.h carries no licence" in result.stderr
    (root / "src/cuda/k/kernel.cuh").write_text("#include <cuda_fp16.h>\n")
    result = pack(root, tmp_path / "out", *places)
    assert result.returncode == 1 and "nothing offers `cuda_fp16.h`" in result.stderr


def test_the_kernels_need_no_header_of_cudas_own(tmp_path: Path) -> None:
    """Of CUDA's own headers only the stand-in is packed; compiling them: machine_code_test.cc."""
    if importlib.util.find_spec("cutlass_library") is None:
        pytest.skip("CUTLASS is not installed: pip install --no-deps nvidia-cutlass")
    command = [sys.executable, str(PACK), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    at_the_top = [p for p in (tmp_path / "source").iterdir() if p.is_file()]
    assert [p.name for p in at_the_top] == ["cuda_runtime_api.h"]
    stand_in = ROOT / "src/cuda/stand_ins/cuda_runtime_api.h"
    assert at_the_top[0].read_bytes() == stand_in.read_bytes()
