"""`bsk migrate --checklist`: every item of the migration guide, checked here and now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rich.console import Console
from rich.text import Text

from blackwell_sparsek.migrate import machine, surroundings
from blackwell_sparsek.migrate.project import FileReport, migrate_paths


class State(Enum):
    """What a check can say, with the mark that is printed."""

    DONE = "x"
    TO_DO = " "
    UNKNOWN = "?"


Answer = tuple[State, str]
Check = Callable[["Situation"], Answer]


@dataclass
class Situation:
    """What the checks look at: the code below `paths`, analysed once, and this machine."""

    paths: Sequence[Path]
    reports: list[FileReport]

    def open_places(self, *ideas: str) -> list[str]:
        """Files in which something about one of the ideas is left, with how much."""
        places = []
        for report in self.reports:
            number = sum(report.changes[idea] for idea in ideas)
            number += sum(finding.idea in ideas for finding in report.left)
            if number:
                places.append(f"{report.path} ({number})")
        return places


def _code(*ideas: str) -> Check:
    def check(situation: Situation) -> Answer:
        places = situation.open_places(*ideas)
        if places:
            shown = ", ".join(places[:5]) + (f" and {len(places) - 5} more" if places[5:] else "")
            return State.TO_DO, f"left in {shown}: bsk migrate"
        if not situation.reports:
            return State.UNKNOWN, "no Python file or notebook found at the path given"
        unread = [str(report.path) for report in situation.reports if report.problem is not None]
        if unread:
            return State.UNKNOWN, f"none found, but not every file could be read: {unread[0]}"
        return State.DONE, f"nothing of it in {len(situation.reports)} files"

    return check


def _person(why: str) -> Check:
    return lambda _: (State.UNKNOWN, why)


def _files(find: Callable[[Sequence[Path]], list[str]], found: str, none: str) -> Check:
    def check(situation: Situation) -> Answer:
        places = find(situation.paths)
        if places:
            return State.TO_DO, f"{found}: {', '.join(places[:5])}"
        return State.DONE, none

    return check


def _machine(probe: Callable[[], tuple[bool | None, str]]) -> Check:
    def check(_: Situation) -> Answer:
        fine, why = probe()
        return State.UNKNOWN if fine is None else State.DONE if fine else State.TO_DO, why

    return check


_GPU = _machine(machine.supported_gpu)
_INSTALLED = _machine(machine.installed)
_COMPARED = _machine(machine.side_by_side)
_CORRECT = _machine(machine.correct)
_DEPENDENCIES = _files(
    surroundings.dependencies, "flashcore is still listed", "no requirements file names flashcore"
)
_IMPORTS = _code("imports")
_BUILD = _code("build", "rollout")
_TESTS = _person("run your project's own tests; this tool doesn't know how")
_BENCHMARK = _person(
    "your workload must be timed on your GPU: `bsk bench` there, and your own benchmark"
)

CHECKLISTS: dict[str, list[tuple[str, Check]]] = {
    "Quick Migration Checklist": [
        ("Verify GPU is H100 (sm_90a) or Blackwell (sm_100)", _GPU),
        ("Install BlackwellSparseK (`pip install blackwell-sparsek`)", _INSTALLED),
        ("Update imports (`flashcore` → `blackwell_sparsek`)", _IMPORTS),
        ("Update function calls (remove build step, direct API)", _BUILD),
        ("Run tests to verify correctness", _TESTS),
        ("Benchmark to confirm performance improvement", _BENCHMARK),
        ("Remove FlashCore dependencies", _DEPENDENCIES),
    ],
    "Pre-Migration": [
        ("Read this guide thoroughly", _person("docs/migration_from_flashcore.md")),
        ("Verify H100 or Blackwell GPU available", _GPU),
        ("Install BlackwellSparseK in test environment", _INSTALLED),
        ("Run side-by-side comparison", _COMPARED),
        ("Benchmark performance improvement", _BENCHMARK),
    ],
    "Migration": [
        ("Update imports (`flashcore` → `blackwell_sparsek`)", _IMPORTS),
        ("Remove build steps (direct API usage)", _BUILD),
        ("Update configuration (use `Config` class)", _code("config")),
        ("Update validation calls (handle new return signature)", _code("validation")),
        ("Update benchmarking code (new API)", _code("benchmark")),
    ],
    "Post-Migration": [
        ("Run full test suite", _TESTS),
        ("Verify correctness (torch.allclose)", _CORRECT),
        ("Benchmark production workload", _BENCHMARK),
        (
            "Update documentation",
            _files(surroundings.documents, "flashcore is named in", "no document names flashcore"),
        ),
        ("Remove FlashCore dependencies", _DEPENDENCIES),
        (
            "Update CI/CD pipelines",
            _files(surroundings.pipelines, "flashcore is named in", "no pipeline names flashcore"),
        ),
    ],
    "Cleanup (After 2025-12-01)": [
        (
            "Remove FlashCore code",
            _files(surroundings.copies, "a copy is kept in", "no copy of the package is kept"),
        ),
        ("Remove FlashCore dependencies from requirements.txt", _DEPENDENCIES),
        (
            "Archive FlashCore documentation",
            _person("where your project archives documents is not known to this tool"),
        ),
        (
            "Update main README to remove FlashCore references",
            _files(surroundings.readmes, "flashcore is named in", "no README names flashcore"),
        ),
    ],
}


def run_checklists(paths: Sequence[Path]) -> list[tuple[str, str, State, str]]:
    """(checklist, item, state, why) of every item, in the guide's order."""
    situation = Situation(paths, migrate_paths(paths))
    cache: dict[Check, Answer] = {}
    rows = []
    for title, items in CHECKLISTS.items():
        for item, check in items:
            if check not in cache:
                cache[check] = check(situation)
            rows.append((title, item, *cache[check]))
    return rows


def print_checklist(paths: Sequence[Path]) -> int:
    """Print the checklists to stdout. Returns 1 if an item is to do, 0 otherwise."""
    console = Console()
    styles = {State.DONE: "green", State.TO_DO: "yellow", State.UNKNOWN: ""}
    rows = run_checklists(paths)
    title = None
    for checklist, item, state, why in rows:
        if checklist != title:
            title = checklist
            console.print(Text(f"\n{title}", style="bold"))
        console.print(Text(f"- [{state.value}] {item}", style=styles[state]), soft_wrap=True)
        said = "cannot be checked here: " if state is State.UNKNOWN else ""
        console.print(Text(f"      {said}{why}"), soft_wrap=True)
    counts = {state: sum(row[2] is state for row in rows) for state in State}
    console.print(
        f"\n{counts[State.DONE]} done, {counts[State.TO_DO]} to do, "
        f"{counts[State.UNKNOWN]} cannot be checked here",
        highlight=False,
    )
    return 1 if counts[State.TO_DO] else 0
