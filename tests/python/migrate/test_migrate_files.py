"""Files as they are: bytes kept, replaced at once, one file's trouble never the others'."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from blackwell_sparsek.migrate import files, migrate_paths
from blackwell_sparsek.migrate.files import FileProblem

OLD = "from flashcore import build_baseline\nout = build_baseline().forward(Q, K, V)\n"
NEW = "from blackwell_sparsek import attention_forward\nout = attention_forward(Q, K, V)\n"

BYTES = {
    "crlf": (
        b"import torch\r\nfrom flashcore import build_baseline\r\n\r\nk = build_baseline()\r\n"
        b"o = k.forward(Q, K, V)\r\n",
        b"import torch\r\nfrom blackwell_sparsek import attention_forward\r\n\r\n"
        b"o = attention_forward(Q, K, V)\r\n",
    ),
    "tabs": (
        b"from flashcore import build_baseline\nclass A:\n\tdef __init__(self):\n"
        b"\t\tself.k = build_baseline()\n\tdef run(self, q, k, v):\n"
        b"\t\treturn self.k.forward(q, k, v)\n",
        b"from blackwell_sparsek import attention_forward\nclass A:\n\tdef __init__(self):\n"
        b"\t\tpass\n\tdef run(self, q, k, v):\n\t\treturn attention_forward(q, k, v)\n",
    ),
    "bom": (
        b"\xef\xbb\xbf" + OLD.encode() + b"# \xc2\xb5s\n",
        b"\xef\xbb\xbf" + NEW.encode() + b"# \xc2\xb5s\n",
    ),
    "latin1": (
        b"# -*- coding: latin-1 -*-\n" + OLD.encode() + b"# \xb5s\n",
        b"# -*- coding: latin-1 -*-\n" + NEW.encode() + b"# \xb5s\n",
    ),
    "no_newline_at_the_end": (OLD.encode()[:-1], NEW.encode()[:-1]),
    "form_feed_and_trailing_blanks": (
        OLD.encode() + b"\x0c\nx = 1   \n\n\n",
        NEW.encode() + b"\x0c\nx = 1   \n\n\n",
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_line_ends_indentation_encoding_and_bom_are_kept(name: str, tmp_path: Path) -> None:
    before, after = BYTES[name]
    path = tmp_path / "code.py"
    path.write_bytes(before)
    (report,) = migrate_paths([path], write=True)
    assert report.problem is None
    assert report.written
    assert path.read_bytes() == after
    (again,) = migrate_paths([path], write=True)
    assert not again.written
    assert path.read_bytes() == after


def test_links_that_lead_nowhere_do_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "circle.py").symlink_to("circle.py")
    (tmp_path / "gone.py").symlink_to("no_such_file.py")
    (tmp_path / "good.py").write_text(
        "import flashcore\nflashcore.build_baseline().forward(q, k, v)\n"
    )
    reports = {report.path.name: report for report in migrate_paths([tmp_path])}
    assert "can't be read" in (reports["circle.py"].problem or "")
    assert "can't be read" in (reports["gone.py"].problem or "")
    assert reports["good.py"].changed


def test_mode_and_links_are_kept_and_no_temporary_stays(tmp_path: Path) -> None:
    path = tmp_path / "tool.py"
    path.write_text(OLD)
    path.chmod(0o750)
    link = tmp_path / "sub" / "link.py"
    link.parent.mkdir()
    link.symlink_to(path)
    migrate_paths([link], write=True)
    assert link.is_symlink()
    assert path.read_text() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sub", "tool.py"]


def test_without_write_nothing_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(OLD)
    before = path.stat()
    (report,) = migrate_paths([tmp_path])
    assert report.changed
    assert not report.written
    assert path.read_text() == OLD
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(OLD)
    text = files.read(path)
    path.write_text("mine = 1\n")
    with pytest.raises(FileProblem, match="changed by something else"):
        files.replace(path, text, NEW)
    assert path.read_text() == "mine = 1\n"


def test_a_failing_write_leaves_the_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.py"
    path.write_text(OLD)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    (report,) = migrate_paths([path], write=True)
    assert report.problem == "can't be written: No space left on device"
    assert not report.written
    assert path.read_text() == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["a.py"]


def test_trouble_in_one_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a_syntax.py").write_text("import flashcore\ndef f(:\n")
    (tmp_path / "b_bytes.py").write_bytes(b"import flashcore\n\xff\xfe\n")
    (tmp_path / "c_nul.py").write_bytes(b"import flashcore\n\0\n")
    (tmp_path / "d_coding.py").write_bytes(b"# coding: no-such-codec\nimport flashcore\n")
    (tmp_path / "e_nested.py").write_text("import flashcore\nx = " + "(" * 400 + ")" * 400 + "\n")
    (tmp_path / "z_good.py").write_text(OLD)
    reports = migrate_paths([tmp_path, tmp_path / "missing.py"], write=True)
    problems = {report.path.name: report.problem for report in reports}
    assert "line 2" in (problems["a_syntax.py"] or "")
    assert "can't be decoded" in (problems["b_bytes.py"] or "")
    assert "NUL" in (problems["c_nul.py"] or "")
    assert "no-such-codec" in (problems["d_coding.py"] or "")
    assert "can't be read" in (problems["missing.py"] or "")
    assert problems["z_good.py"] is None
    assert (tmp_path / "z_good.py").read_text() == NEW


def test_directories_are_walked_without_environments_and_version_control(tmp_path: Path) -> None:
    for name in (".git/hook.py", "env/lib/x.py", "__pycache__/x.py", "node_modules/x.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(OLD)
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    for name in ("src/deep/a.py", "b.pyw", "c.pyi"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(OLD)
    (tmp_path / "notes.txt").write_text(OLD)
    reports = migrate_paths([tmp_path, tmp_path / "src"])
    names = [str(report.path.relative_to(tmp_path)) for report in reports]
    assert names == ["b.pyw", "c.pyi", "src/deep/a.py"]
    (named,) = migrate_paths([tmp_path / "env" / "lib" / "x.py"])
    assert named.changed
    (other,) = migrate_paths([tmp_path / "notes.txt"])
    assert "not a Python file" in (other.problem or "")
    (missing,) = migrate_paths([tmp_path / "typo"])
    assert missing.problem == "no such file or directory"


PROVIDER = """\
from flashcore import build_baseline

kernel = build_baseline()
private = build_baseline()


def attention(q, k, v):
    return private.forward(q, k, v)
"""


@pytest.mark.parametrize(
    "consumer",
    [
        "from pkg.provider import kernel\n",
        "from .provider import kernel as k\n",
        "import pkg.provider\npkg.provider.kernel.forward(1, 2, 3)\n",
        "from pkg import provider as p\np.kernel.forward(1, 2, 3)\n",
        "from pkg.provider import *\nkernel.forward(1, 2, 3)\n",
    ],
)
def test_a_kernel_that_another_file_imports_stays(consumer: str, tmp_path: Path) -> None:
    (tmp_path / "provider.py").write_text(PROVIDER)
    (tmp_path / "consumer.py").write_text(consumer)
    reports = {report.path.name: report for report in migrate_paths([tmp_path], write=True)}
    text = (tmp_path / "provider.py").read_text()
    assert "kernel = build_baseline()" in text
    assert "private" not in text
    assert "return attention_forward(q, k, v)" in text
    assert [finding.line for finding in reports["provider.py"].left] == [3]
    assert (tmp_path / "consumer.py").read_text() == consumer


@pytest.mark.parametrize(
    "consumer",
    [
        "def f(model, q):\n    return model.kernel.forward(q, q, q)\n",
        "from m import Model\nclass Sub(Model):\n    def g(self, q):\n"
        "        return self.kernel.forward(q, q, q)\n",
    ],
)
def test_an_attribute_that_another_file_calls_stays(consumer: str, tmp_path: Path) -> None:
    source = (
        "from flashcore import build_baseline\nclass Model:\n    def __init__(self):\n"
        "        self.kernel = build_baseline()\n"
    )
    (tmp_path / "m.py").write_text(source)
    assert migrate_paths([tmp_path])[0].changed
    (tmp_path / "n.py").write_text(consumer)
    reports = migrate_paths([tmp_path])
    assert not any(report.changed for report in reports)
    assert [finding.line for finding in reports[0].left] == [4]
