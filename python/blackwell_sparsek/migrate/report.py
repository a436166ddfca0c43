"""What a person sees: the diff, what is left to do, and one line that sums up."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from blackwell_sparsek.migrate.plan import Finding
from blackwell_sparsek.migrate.project import FileReport

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def diff_lines(report: FileReport) -> Iterator[str]:
    """A unified diff, with the file's own line ends; a notebook's is one diff per cell."""
    for (name, before), (_, after) in zip(report.before, report.after, strict=True):
        if before == after:
            continue
        path = str(report.path).lstrip("/")
        label = f"{path} ({name})" if name else path
        for line in difflib.unified_diff(_lines(before), _lines(after), f"a/{label}", f"b/{label}"):
            yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(text: str) -> list[str]:
    lines = [f"{line}\n" for line in text.split("\n")]
    return lines[:-1] if text.endswith("\n") or not text else [*lines[:-1], lines[-1][:-1]]


def print_diff(report: FileReport) -> None:
    """To stdout: coloured on a terminal, byte for byte elsewhere."""
    console = Console()
    for line in diff_lines(report):
        if console.is_terminal:
            text = Text(line.rstrip("\r\n"), style=_STYLES.get(line[0], ""))
            console.print(text, soft_wrap=True)
        else:
            sys.stdout.write(line)


def place(report: FileReport, finding: Finding) -> str:
    """`path:line:column`, as editors open it; for notebooks `path:cell 2:line:column`."""
    cell = f"cell {finding.cell}:" if finding.cell else ""
    return f"{report.path}:{cell}{finding.line}:{finding.column}"


def print_findings(reports: Sequence[FileReport], console: Console) -> None:
    for report in reports:
        if report.problem is not None:
            console.print(Text(f"{report.path}: {report.problem}", style="red"), soft_wrap=True)
        for finding in report.findings:
            kind = "left to do" if finding.blocking else "note"
            head = f"{place(report, finding)}: {kind} ({finding.idea}): {finding.what}"
            console.print(Text(head, style="yellow" if finding.blocking else ""), soft_wrap=True)
            console.print(Text(f"    {finding.remedy}"), soft_wrap=True)


def summary(reports: Sequence[FileReport], mode: str) -> str:
    """One line that says what happened."""
    changed = sum(report.changed and report.problem is None for report in reports)
    left = sum(len(report.left) for report in reports)
    problems = sum(report.problem is not None for report in reports)
    verb = "changed" if mode == "write" else "would change"
    parts = [f"{_count(len(reports), 'file')} looked at", f"{changed} {verb}"]
    parts.append(f"{_count(left, 'place')} left to do by hand")
    if problems:
        parts.append(f"{_count(problems, 'file')} not understood or not written")
    return ", ".join(parts) + "."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def exit_code(reports: Sequence[FileReport], mode: str) -> int:
    """0: nothing left; 1: something is left to do; 2: some file couldn't be read or written.

    A pending diff is something left under `--check` only.
    """
    if any(report.problem is not None for report in reports):
        return 2
    if any(report.left for report in reports):
        return 1
    return 1 if mode == "check" and any(report.changed for report in reports) else 0
