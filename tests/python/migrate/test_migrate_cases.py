"""Real-looking files: what `bsk migrate` makes of each, what it leaves, and that both run alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from blackwell_sparsek.migrate import Result, SourceError, migrate_source

CASES = sorted(p.parent for p in (Path(__file__).parent / "cases").glob("*/before.py"))


def _result(case: Path, **options: Any) -> Result:
    return migrate_source((case / "before.py").read_text("utf-8"), **options)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_rewrites_to_what_is_expected_and_lists_the_rest(case: Path) -> None:
    expected = case / "after.py" if (case / "after.py").exists() else case / "before.py"
    result = _result(case)
    assert result.source == expected.read_text("utf-8")
    listed = "".join(
        f"{f.line}:{f.column} {'left' if f.blocking else 'note'} {f.idea}: {f.what}\n"
        for f in result.findings
    )
    assert listed == (case / "left.txt").read_text("utf-8")
    assert all(finding.remedy for finding in result.findings)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_second_run_changes_nothing(case: Path) -> None:
    once = _result(case).source
    again = migrate_source(once)
    assert again.source == once
    assert not again.changes


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_nothing_is_lost_or_left_over(case: Path) -> None:
    """Every comment survives (but those of a deleted branch); a clean result needs no FlashCore."""
    before = (case / "before.py").read_text("utf-8")
    result = _result(case)
    if case.name != "feature_flag":
        for line in before.splitlines():
            _, mark, comment = line.partition("# ")
            if mark:
                assert comment.rstrip() in result.source, comment
    code = [line for line in result.source.splitlines() if "import" in line]
    if not any(finding.blocking for finding in result.findings):
        assert not any("flashcore" in line for line in code if not line.startswith('"""'))


RUNNABLE = [case for case in CASES if "RESULT" in (case / "before.py").read_text("utf-8")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", RUNNABLE, ids=lambda path: path.name)
def test_before_and_after_compute_the_same(
    case: Path, qkv: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, Any] = {**qkv, "__name__": __name__}
    after = dict(before)
    exec(compile((case / "before.py").read_text("utf-8"), "before.py", "exec"), before)
    for name in ("CUDA_ARCH", "DEBUG"):
        monkeypatch.delenv(name, raising=False)
    exec(compile(_result(case).source, "after.py", "exec"), after)
    assert torch.equal(before["RESULT"], after["RESULT"])


def test_twenty_cases_or_more_and_most_run() -> None:
    assert len(CASES) >= 20
    assert len(RUNNABLE) >= len(CASES) - 2


def test_names_that_other_files_use_stay(qkv: dict[str, Any]) -> None:
    source = "from flashcore import build_baseline\nkernel = build_baseline()\n"
    assert "kernel" not in migrate_source(source).source
    result = migrate_source(source, exported=frozenset({"kernel"}))
    assert result.source == source
    assert [finding.line for finding in result.findings] == [2]


def test_config_object_takes_adjacent_lines_only() -> None:
    head = "import os\nfrom flashcore import build_baseline\n"
    both = head + "os.environ['CUDA_ARCH'] = '90'\nos.environ['DEBUG'] = '1'\n"
    new = migrate_source(both, config_object=True).source
    assert "set_default_config(Config(cuda_arch='90a', debug_mode=True))" in new
    assert "os.environ" not in new
    apart = both.replace("\nos.environ['DEBUG']", "\nprint()\nos.environ['DEBUG']")
    assert "BSK_DEBUG" in migrate_source(apart, config_object=True).source


def test_config_object_where_nothing_is_configured() -> None:
    code = "from flashcore import build_baseline\nout = build_baseline().forward(Q, K, V)\n"
    assert migrate_source(code, config_object=True).source == migrate_source(code).source


def test_invalid_python_is_named_with_its_place() -> None:
    with pytest.raises(SourceError, match=r"line 2"):
        migrate_source("import flashcore\nprint 'x'\n")


@pytest.mark.parametrize("value", ["89", "86", "75"])
def test_an_old_architecture_is_listed_with_the_three_options(value: str) -> None:
    source = f"import os, flashcore\nos.environ['CUDA_ARCH'] = '{value}'\n"
    result = migrate_source(source)
    (finding,) = result.findings
    assert f"'{value}'" in result.source
    assert all(f"{letter})" in finding.remedy for letter in "ABC")
    # and it is still there when the rest of the file is migrated
    (finding,) = migrate_source(result.source).findings
    assert finding.blocking


def test_annotations_in_strings_are_listed() -> None:
    source = (
        "from flashcore import build_baseline\n"
        "def f(a: 'Optional[build_baseline]', b: list['flashcore.Kernel'], c: 'int') -> 'str': ...\n"
    )
    findings = migrate_source(source).findings
    assert [(one.line, one.column) for one in findings] == [(2, 10), (2, 46)]
