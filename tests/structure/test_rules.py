"""The rules of the house (docs/architecture.md), held over the source tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = {".cc", ".h", ".cuh", ".py", ".pyi", ".sh", ".cmake"}

# Who may include what: a folder, and the folders of the project whose headers it may include.
MAY_INCLUDE = {
    "include/bsk": ("bsk/",),
    "src/attention": ("bsk/", "src/attention/", "src/cpu/kernels.h", "src/cuda/"),
    "src/cpu": ("bsk/", "src/attention/", "src/cpu/"),
    "src/cuda": ("bsk/", "src/attention/", "src/cuda/"),
    "bindings": ("bsk/", "src/", "bindings/"),
}
MAX_LINES = 600


def tracked(*suffixes: str, under: str = "") -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", under or "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    paths = [ROOT / name for name in names if "/migrate/cases/" not in name]  # test inputs
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


@pytest.mark.parametrize("folder", MAY_INCLUDE)
def test_dependencies_point_one_way(folder: str) -> None:
    own_folders = ("bsk/", "src/", "bindings/", "tests/", "python/")
    for path in tracked(".cc", ".h", ".cuh", under=folder):
        for include in re.findall(r'^#include "([^"]+)"', path.read_text(), flags=re.M):
            if include.startswith(own_folders):
                assert include.startswith(MAY_INCLUDE[folder]), f"{path}: {include}"


def test_public_headers_include_only_the_standard_library() -> None:
    for path in tracked(".h", under="include"):
        for include in re.findall(r"^#include <([^>]+)>", path.read_text(), flags=re.M):
            assert "/" not in include and "." not in include, f"{path}: {include}"


def test_the_native_side_knows_no_torch() -> None:
    for path in tracked(".cc", ".h", ".cuh", under="src") + tracked(".h", under="include"):
        assert not re.search(r"#include <(torch|ATen|c10|Python)", path.read_text()), path


def test_the_environment_is_read_in_one_file() -> None:
    for path in tracked(".cc", ".h", ".cuh"):
        if path.relative_to(ROOT).parts[0] == "tests" or path.name == "settings.cc":
            continue
        assert "getenv" not in path.read_text(), path


def test_python_reads_no_bsk_variable() -> None:
    for path in tracked(".py", under="python"):
        assert not re.search(r"environ[.\[(].*BSK_", path.read_text()), path


def test_nothing_exits_or_prints_in_the_library() -> None:
    for path in tracked(".cc", ".h", ".cuh", under="src"):
        if path.name == "embed_kernels.cc":  # a program of the build, not of the library
            continue
        assert not re.search(
            r"\b(printf|std::cout|std::cerr|exit|abort)\s*[(<]", path.read_text()
        ), path


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked(*CODE)
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long


def test_no_open_ends() -> None:
    """No bare TODO, no commented-out test, no conflict marker, no address to be filled in."""
    this = Path(__file__)
    for path in tracked(*CODE, ".md", ".yml", ".toml"):
        if path == this:
            continue
        text = path.read_text()
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), path
        assert not re.search(r"^(<{7}|>{7}) ", text, flags=re.M), path
        assert not re.search(r"\b(your-?user-?name|your-?org)\b", text, flags=re.I), path


def test_markdown_is_markdown() -> None:
    """No heading that a C++ formatter has eaten: it writes "##Title" or indents it."""
    for path in tracked(".md"):
        text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(), flags=re.M | re.S)
        assert not re.search(r"^ *#+[A-Za-z]|^ +##", text, flags=re.M), path


def test_nothing_names_a_machine() -> None:
    """No path of a developer's machine, no address of a package registry."""
    this = Path(__file__)
    pattern = re.compile(r"/work/|/opt/bsk|/root/|pypi\.org|pythonhosted|deb\.debian\.org")
    for path in tracked():
        if path == this or path.suffix in {".png", ".ipynb"}:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        assert not pattern.search(text), path


def test_the_version_has_one_value() -> None:
    python = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    cmake = re.search(r"VERSION (\d+\.\d+\.\d+)", (ROOT / "CMakeLists.txt").read_text())
    assert python and cmake and python[1] == cmake[1]
