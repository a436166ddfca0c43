"""Notebooks: cells share their names, magics survive, the JSON stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blackwell_sparsek.migrate import migrate_paths


def _cell(source: str | list[str], kind: str = "code") -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


def _book(*cells: dict[str, Any], language: str = "python") -> dict[str, Any]:
    kernel = {"name": "k", "display_name": "k", "language": language}
    return {
        "cells": list(cells),
        "metadata": {"kernelspec": kernel, "µ": "kept"},
        "nbformat": 4,
        "nbformat_minor": 4,
    }


CELLS = (
    _cell("# FlashCore\n\nWith `from flashcore import build_baseline`.", "markdown"),
    _cell(
        "%matplotlib inline\n!pip install torch \\\n    numpy\nfrom flashcore import build_baseline"
    ),
    _cell("%%bash\nls flashcore\n"),
    _cell(["kernel = build_baseline(verbose=True)  # build\n", "files = !ls\n", "kernel?"][:2]),
    _cell("%%time\nfor _ in range(2):\n    %time pass\n    out = kernel.forward(Q, K, V)\nout"),
    _cell(""),
    _cell("await something()"),
)


def _sources(path: Path) -> list[str]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells]


def test_cells_are_migrated_together_and_magics_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(_book(*CELLS), indent=1, ensure_ascii=False) + "\n", "utf-8")
    (report,) = migrate_paths([path], write=True)
    assert report.problem is None
    assert [(one.cell, one.line) for one in report.findings] == [(3, 1)]  # the shell's flashcore
    before = ["".join(cell["source"]) for cell in CELLS]
    assert _sources(path) == [
        before[0],
        before[1].replace(
            "from flashcore import build_baseline",
            "from blackwell_sparsek import attention_forward",
        ),
        before[2],
        "# build\nfiles = !ls\n",
        before[4].replace("kernel.forward", "attention_forward"),
        "",
        before[6],
    ]
    assert isinstance(json.loads(path.read_text("utf-8"))["cells"][3]["source"], list)
    (again,) = migrate_paths([path])
    assert not again.changed


@pytest.mark.parametrize(
    "options",
    [
        {"indent": 1, "ensure_ascii": False},
        {"indent": 4, "ensure_ascii": True},
        {"indent": "\t", "ensure_ascii": False},
        {"ensure_ascii": False},
        {"separators": (",", ":")},
    ],
    ids=str,
)
@pytest.mark.parametrize("tail", ["", "\n"])
def test_json_formatting_is_kept(options: dict[str, Any], tail: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    before = json.dumps(_book(*CELLS), **options) + tail
    path.write_text(before, "utf-8")
    migrate_paths([path], write=True)
    after = path.read_bytes().decode("utf-8")
    assert after != before
    changed = json.loads(after)
    assert after == json.dumps(changed, **options) + tail
    assert changed["metadata"] == _book()["metadata"]


def test_crlf_notebook_keeps_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    text = json.dumps(_book(*CELLS), indent=1) + "\n"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    migrate_paths([path], write=True)
    data = path.read_bytes()
    assert b"attention_forward" in data
    assert data.count(b"\n") == data.count(b"\r\n")


def test_a_kernel_in_a_magic_stays_and_the_place_is_the_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    cells = (
        _cell("# title", "markdown"),
        _cell("from flashcore import build_baseline\n\nkernel = build_baseline()"),
        _cell("%timeit kernel.forward(Q, K, V)"),
    )
    path.write_text(json.dumps(_book(*cells), indent=1), "utf-8")
    (report,) = migrate_paths([path], write=True)
    assert not report.written
    (finding,) = report.left
    assert (finding.cell, finding.line) == (2, 3)
    assert "magic" in finding.what


def test_magics_that_name_flashcore_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    cells = (
        _cell("x = 1\n!pip install flashcore"),
        _cell("%%bash\nexport CUDA_ARCH=90"),
        _cell("!pip install numpy\n%load_ext autoreload"),
    )
    path.write_text(json.dumps(_book(*cells), indent=1), "utf-8")
    (report,) = migrate_paths([path])
    assert [(one.cell, one.line) for one in report.left] == [(1, 2), (2, 1)]
    assert "`!pip install flashcore`" in report.left[0].what


def test_an_import_goes_to_the_first_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    cells = (_cell('"""Title."""\nimport torch'), _cell("out = build_baseline().forward(Q, K, V)"))
    path.write_text(json.dumps(_book(*cells), indent=1), "utf-8")
    migrate_paths([path], write=True)
    assert _sources(path) == [
        '"""Title."""\nfrom blackwell_sparsek import attention_forward\nimport torch',
        "out = attention_forward(Q, K, V)",
    ]


def test_what_is_no_python_notebook_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.ipynb").write_text("{")
    (tmp_path / "not.ipynb").write_text('{"cells": 3}')
    (tmp_path / "broken.ipynb").write_text(
        json.dumps(_book(_cell("import flashcore"), _cell("def f(:")))
    )
    (tmp_path / "julia.ipynb").write_text(json.dumps(_book(_cell("flashcore"), language="julia")))
    problems = {report.path.name: report.problem for report in migrate_paths([tmp_path])}
    assert "not JSON" in (problems["bad.ipynb"] or "")
    assert "not a valid notebook" in (problems["not.ipynb"] or "")
    assert problems["broken.ipynb"] == "cell 2: not valid Python"
    assert "julia.ipynb" not in problems
