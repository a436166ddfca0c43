"""The summary of scripts/gpu_test.sh calls nothing good that failed, crashed or did not run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import summary

CLEAN = "case ok: plain\nall cases ran\n========= ERROR SUMMARY: 0 errors\n"


def entry(test: str, outcome: str, **more: object) -> str:
    return json.dumps({"test": f"tests/gpu/test_x.py::{test}", "outcome": outcome, **more}) + "\n"


def passed(test: str) -> str:
    return (
        entry(test, "started")
        + entry(test, "passed", seconds=1.0, text="")
        + entry(test, "ended", notes=[["margin", 0.4], ["figure", "3 us"]])
    )


@pytest.mark.parametrize(
    ("files", "code", "words"),
    [
        ({"a.jsonl": passed("one")}, 0, ["3 us", "0.40 of allowed, one"]),
        ({"a.jsonl": passed("one"), "memcheck.sanitizer": CLEAN}, 0, ["clean over 1 cases"]),
        ({"memcheck.sanitizer": CLEAN}, 0, ["clean"]),
        ({}, 1, ["NOTHING RAN"]),
        ({"a.jsonl": entry("one", "skipped", text="('f', 3, 'Skipped: no GPU')")}, 1, ["no GPU"]),
        ({"a.jsonl": passed("one") + entry("two", "started")}, 1, ["crashed the process"]),
        ({"a.jsonl": passed("one"), "a.unfinished": ""}, 1, ["DID NOT FINISH"]),
        (
            {"a.jsonl": passed("one") + entry("two", "failed", text="x\nE   wrong by 3\nE  y")},
            1,
            ["wrong by 3"],
        ),
        (
            {"racecheck.sanitizer": CLEAN.replace("ERROR SUMMARY: 0", "RACECHECK SUMMARY: 2")},
            1,
            ["FOUND SOMETHING: 2"],
        ),
        ({"memcheck.sanitizer": "case ok: plain\n"}, 1, ["DID NOT FINISH (1 cases ran)"]),
    ],
)
def test_verdict(
    files: dict[str, str],
    code: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "argv", ["summary.py", str(tmp_path)])
    assert summary.main() == code
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed
