"""The project's version has one home, pyproject.toml; this holds every other place to it.

    python scripts/check_version.py [--tag v0.1.0] [--notes]

With `--tag` also that the tag names this version; with `--notes` prints CHANGELOG.md's part on it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def version_of(project: Path) -> str:
    """`project.version`; by a pattern, since Python 3.10 has no tomllib."""
    return found(r'^version = "(.+)"$', project / "pyproject.toml")


def found(pattern: str, file: Path) -> str:
    match = re.search(pattern, file.read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(
            f"{file.name}: nothing matches {pattern!r}, where the version is looked for."
        )
    return match[1]


def problems_of(project: Path, tag: str | None = None) -> list[str]:
    """Every place that names another version than pyproject.toml, as sentences."""
    version = version_of(project)
    places = {
        "CMakeLists.txt: project(VERSION)": found(
            r"^project\(blackwell_sparsek VERSION (\S+)", project / "CMakeLists.txt"
        ),
        "CHANGELOG.md: the first entry": found(r"^## \[(\d\S*)\]", project / "CHANGELOG.md"),
    }
    if tag is not None:
        places["the tag"] = tag.removeprefix("v")
    return [
        f"{place} is {got}; pyproject.toml says {version}. Make them equal."
        for place, got in places.items()
        if got != version
    ]


def notes_of(project: Path) -> str:
    """CHANGELOG.md's part on this version, without its heading."""
    version = re.escape(version_of(project))
    text = (project / "CHANGELOG.md").read_text()
    match = re.search(
        rf"^## \[{version}\][^\n]*\n(.*?)(?=^## \[|^\[|\Z)", text, re.MULTILINE | re.DOTALL
    )
    if match is None:
        raise ValueError(f"CHANGELOG.md: has no entry ## [{version_of(project)}].")
    return match[1].strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag")
    parser.add_argument("--notes", action="store_true")
    arguments = parser.parse_args()
    problems = problems_of(PROJECT, arguments.tag)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if arguments.notes and not problems:
        print(notes_of(PROJECT))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
