"""`bsk migrate` as a person meets it: output, exit codes, checklist, missing packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import guide
import pytest
import typer
from typer.testing import CliRunner

from blackwell_sparsek.migrate import _extra, migrate_command
from blackwell_sparsek.migrate import command as command_module
from blackwell_sparsek.migrate.checklist import CHECKLISTS, State, run_checklists

OLD = "from flashcore import build_baseline\nout = build_baseline().forward(Q, K, V)\n"
LEFT = "from flashcore import build_baseline\nprint(build_baseline)\n"
APP = typer.Typer()
APP.command()(migrate_command)


def _run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_checklist_of_a_path_that_is_not_there_is_a_wrong_command_line(tmp_path: Path) -> None:
    code, out, err = _run("--checklist", tmp_path / "typo")
    assert (code, out) == (2, "") and "no such file or directory" in err


def test_diff_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(OLD)
    code, out, err = _run(path)
    assert code == 0
    assert "-out = build_baseline().forward(Q, K, V)\n" in out
    assert "+out = attention_forward(Q, K, V)\n" in out
    assert "1 would change" in err
    assert _run("--diff", path) == (code, out, err)
    assert path.read_text() == OLD


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_the_diff_is_one_that_git_applies(newline: str, tmp_path: Path) -> None:
    path = tmp_path / "pkg" / "a.py"
    path.parent.mkdir()
    text = "\n\n" + OLD + "\nkernel = build_baseline()\nlast = kernel.forward(Q, K, V)"
    path.write_bytes(text.replace("\n", newline).encode())
    done = subprocess.run(
        [sys.executable, "-m", "blackwell_sparsek.migrate", "pkg"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=done.stdout, check=True)
    applied = path.read_bytes()
    path.write_bytes(text.replace("\n", newline).encode())
    assert _run("--write", path)[0] == 0
    assert path.read_bytes() == applied
    assert b"flashcore" not in applied


@pytest.mark.parametrize(
    ("files", "mode", "expected"),
    [
        ({"a.py": OLD}, "--diff", 0),
        ({"a.py": OLD}, "--check", 1),
        ({"a.py": OLD}, "--write", 0),
        ({"a.py": OLD, "b.py": LEFT}, "--diff", 1),
        ({"a.py": OLD, "b.py": LEFT}, "--write", 1),
        ({"b.py": LEFT}, "--check", 1),
        ({"a.py": OLD, "c.py": "import flashcore\ndef"}, "--write", 2),
        ({"a.py": "import torch\n"}, "--check", 0),
    ],
)
def test_exit_codes(files: dict[str, str], mode: str, expected: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    code, _, err = _run(mode, tmp_path)
    assert code == expected, err
    changed = "a.py" in files and (tmp_path / "a.py").read_text() != files["a.py"]
    assert changed == (mode == "--write")


def test_what_is_left_is_listed_with_its_place_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "b.py"
    path.write_text(LEFT)
    code, out, err = _run("--write", path)
    assert (code, out) == (1, "")
    assert f"{path}:2:7: left to do (build): `build_baseline` is used as a value" in err
    assert "pass or store `attention_forward` itself" in err
    assert "1 place left to do by hand" in err
    assert path.read_text() == LEFT


@pytest.mark.parametrize("arguments", [[], ["--write", "--check", "x.py"], ["--wirte"]])
def test_a_wrong_command_line_is_2(arguments: list[str]) -> None:
    code, _, err = _run(*arguments)
    assert code == 2
    assert err


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"no_such_module: pip install 'blackwell-sparsek\[mig"):
        _extra.require("typer", "no_such_module")

    def missing(*_: str) -> None:
        raise ImportError("migrating code needs libcst: pip install 'blackwell-sparsek[migrate]'")

    monkeypatch.setattr(command_module._extra, "require", missing)
    code, _, err = _run(tmp_path)
    assert code == 2
    assert "blackwell-sparsek[migrate]" in err


def test_importing_the_package_does_not_import_libcst() -> None:
    script = (
        "import sys, blackwell_sparsek.migrate as m; assert m.migrate_command;"
        "assert not {'libcst', 'nbformat'} & set(sys.modules); m.migrate_source"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_the_checklist_has_every_item_of_the_guide() -> None:
    listed = [item for items in CHECKLISTS.values() for item, _ in items]
    assert listed == guide.items()
    assert len(listed) == 27


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_checklist_sees_what_is_to_do_and_what_is_done(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import os\nfrom flashcore import build_baseline\n"
        "from flashcore.utils import validate_correctness, benchmark_latency\n"
        "os.environ['DEBUG'] = '0'\nout = build_baseline().forward(Q, K, V)\n"
        "ok = validate_correctness(out, out)\nbenchmark_latency(lambda: out, num_iters=100)\n"
    )
    (tmp_path / "requirements.txt").write_text("torch\nflashcore==0.1\n")
    (tmp_path / "README.md").write_text("Runs on FlashCore.\n")
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    (tmp_path / ".github" / "workflows" / "ci.yml").write_text("run: pip install flashcore/\n")
    (tmp_path / "flashcore").mkdir()
    (tmp_path / "flashcore" / "__init__.py").write_text("")
    before = {(title, item): state for title, item, state, _ in run_checklists([tmp_path])}
    code, out, _ = _run("--checklist", tmp_path)
    assert code == 1
    assert out.count("- [") == 27

    by_code = [
        ("Migration", item)
        for item in (
            "Update imports (`flashcore` → `blackwell_sparsek`)",
            "Remove build steps (direct API usage)",
            "Update configuration (use `Config` class)",
            "Update validation calls (handle new return signature)",
        )
    ]
    by_file = [
        ("Post-Migration", "Update documentation"),
        ("Post-Migration", "Remove FlashCore dependencies"),
        ("Post-Migration", "Update CI/CD pipelines"),
        ("Cleanup (After 2025-12-01)", "Remove FlashCore code"),
        ("Cleanup (After 2025-12-01)", "Update main README to remove FlashCore references"),
    ]
    assert all(before[key] is State.TO_DO for key in by_code + by_file)

    _run("--write", tmp_path)
    (tmp_path / "requirements.txt").write_text("torch\n# flashcore was here\n")
    (tmp_path / "README.md").write_text("Runs.\n")
    (tmp_path / ".github" / "workflows" / "ci.yml").write_text("run: pytest\n")
    os.remove(tmp_path / "flashcore" / "__init__.py")
    after = {(title, item): state for title, item, state, _ in run_checklists([tmp_path])}
    assert all(after[key] is State.DONE for key in by_code + by_file)
    assert after["Post-Migration", "Verify correctness (torch.allclose)"] is State.DONE
    code, _, _ = _run("--checklist", tmp_path)
    assert code == 0


def test_a_notebooks_diff_is_by_cell(tmp_path: Path) -> None:
    cell = {
        "cell_type": "code",
        "metadata": {},
        "source": OLD,
        "execution_count": None,
        "outputs": [],
    }
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps(book))
    code, out, _ = _run(path)
    assert code == 0
    assert "n.ipynb (cell 1)" in out
    assert "+out = attention_forward(Q, K, V)" in out
