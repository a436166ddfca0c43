"""Sums up what scripts/gpu_test.sh left in a folder: one table, the failures, the figures.

    python tests/gpu/summary.py FOLDER

Ends with 1 where a test failed, crashed or did not run, or a sanitizer found something.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

FIELDS = ("passed", "failed", "crashed", "skipped")
SHOWN_FAILURES = 25


class Row:
    """What is known of the tests of one file."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self.margin: tuple[float, str] | None = None


def _entries(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def _last_words(text: str) -> str:
    """The assertion of a traceback: its first line that pytest marks with E."""
    marked = re.findall(r"^E\s+(.*)$", text, flags=re.MULTILINE)
    return (marked[0] if marked else text.strip().splitlines()[-1] if text.strip() else "")[:200]


def _tests(folder: Path) -> tuple[dict[str, Row], list[str], list[str]]:
    rows: dict[str, Row] = defaultdict(Row)
    failures, figures = [], []
    outcomes: dict[str, str] = {}
    for entry in _entries(folder):
        test, outcome = entry["test"], entry["outcome"]
        row = rows[Path(test.split("::")[0]).name]
        if outcome == "started":
            outcomes.setdefault(test, "crashed")
        elif outcome == "ended":
            for kind, value in entry["notes"]:
                if kind == "figure":
                    figures.append(value)
                elif row.margin is None or value > row.margin[0]:
                    row.margin = (value, test.split("::")[-1])
        else:
            if outcomes.get(test) != "failed":
                outcomes[test] = outcome
            row.seconds += entry.get("seconds", 0.0)
            if outcome == "failed":
                failures.append(f"{test}\n    {_last_words(entry['text'])}")
    for test, outcome in outcomes.items():
        rows[Path(test.split("::")[0]).name].counts[outcome] += 1
        if outcome == "crashed":
            failures.append(f"{test}\n    crashed the process, or took too long")
    return dict(sorted(rows.items())), failures, figures


def _skip_reasons(folder: Path) -> list[str]:
    """Why tests were skipped, with how many of them, the most frequent first."""
    texts = [entry["text"] for entry in _entries(folder) if entry["outcome"] == "skipped"]
    reasons = [re.sub(r"^.*Skipped: |['\")]+$", "", text) for text in texts]
    return [f"{count} x {reason}" for reason, count in Counter(reasons).most_common()]


def _sanitizers(folder: Path) -> list[tuple[str, str]]:
    found = []
    for path in sorted(folder.glob("*.sanitizer")):
        text = path.read_text(errors="replace")
        sums = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
        cases = text.count("case ok: ")
        done = "all cases ran" in text
        if not done:
            verdict = f"DID NOT FINISH ({cases} cases ran)"
        elif not sums or not re.match(r"0 (errors|hazards)", sums[-1]):
            verdict = f"FOUND SOMETHING: {sums[-1] if sums else 'no summary'}"
        else:
            verdict = f"clean over {cases} cases"
        found.append((path.stem, verdict))
    return found


def main() -> int:
    folder = Path(sys.argv[1])
    rows, failures, figures = _tests(folder)
    sanitizers = _sanitizers(folder)
    if figures:
        print("\nMeasured:")
        print("\n".join(f"  {figure}" for figure in figures))
    if failures:
        print(f"\n{len(failures)} failures:")
        print("\n".join(f"  {failure}" for failure in failures[:SHOWN_FAILURES]))
        if len(failures) > SHOWN_FAILURES:
            print(f"  and {len(failures) - SHOWN_FAILURES} more: see {folder}")
    print(f"\n{'file':34}" + "".join(f"{name:>9}" for name in (*FIELDS, "s")) + "  worst margin")
    for name, row in rows.items():
        counts = "".join(f"{row.counts[field]:9}" for field in FIELDS)
        margin = f"{row.margin[0]:.2f} of allowed, {row.margin[1]}" if row.margin else ""
        print(f"{name:34}{counts}{row.seconds:9.1f}  {margin[:90]}")
    total: Counter[str] = sum((row.counts for row in rows.values()), Counter())
    print(f"{'all':34}" + "".join(f"{total[field]:9}" for field in FIELDS))
    reasons = _skip_reasons(folder)
    print("".join(f"skipped: {reason}\n" for reason in reasons), end="")
    unfinished = [path.stem for path in sorted(folder.glob("*.unfinished"))]
    for name in unfinished:
        print(f"{name}: DID NOT FINISH in its time; tests are missing above")
    for name, verdict in sanitizers:
        print(f"{name:34}{verdict}")
    bad = failures or unfinished or any("clean" not in verdict for _, verdict in sanitizers)
    ran = total["passed"] > 0 if rows else bool(sanitizers)
    if not ran:
        print("NOTHING RAN")
    return 1 if bad or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
