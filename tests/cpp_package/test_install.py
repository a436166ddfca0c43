"""`cmake --install` gives a C++ package that a project finds, links and computes with."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation in a folder of its own, moved after the fact: no path may be baked in."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("needs cmake and a C++ compiler")
    folder = tmp_path_factory.mktemp("cpp_package")
    run("cmake", "-S", PROJECT, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", folder / "build", "--parallel", "2")
    run("cmake", "--install", folder / "build", "--prefix", folder / "first")
    return (folder / "first").rename(folder / "prefix")


@pytest.fixture(scope="module")
def example(prefix: Path) -> Path:
    """A copy of examples/cpp, built against the installation alone."""
    source = Path(shutil.copytree(PROJECT / "examples" / "cpp", prefix.parent / "example"))
    build = source / "build"
    run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", build)
    return build / "attention"


def test_example_computes_what_the_reference_does(example: Path) -> None:
    printed = run(example)
    difference = float(re.search(r"difference from fp64: (\S+);", printed)[1])
    assert 0 < difference < 1e-5
    assert "cpu_attention_forward" in printed
    assert "first row equals V's first: yes" in printed


def test_example_needs_neither_python_nor_torch(example: Path) -> None:
    needed = run("ldd", example)
    assert "libgomp" in needed  # the CPU kernel is threaded
    assert not re.search(r"python|torch|libcuda", needed)


def test_installed_headers_are_the_public_ones(prefix: Path) -> None:
    public = {path.name for path in (PROJECT / "include" / "bsk").glob("*.h")}
    include = prefix / "include"
    installed = {
        path.relative_to(include).as_posix() for path in include.rglob("*") if path.is_file()
    }
    assert installed == {f"bsk/{name}" for name in public}


def test_another_minor_version_is_refused(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(other LANGUAGES CXX)\n"
        "find_package(blackwell_sparsek 99.0 REQUIRED)\n"
    )
    done = subprocess.run(
        ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "99.0" in done.stderr
