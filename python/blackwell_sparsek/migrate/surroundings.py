"""Files around the code that may still name FlashCore: requirements, pipelines, documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blackwell_sparsek.migrate.files import below

_NAMED = re.compile(r"\bflashcore\b", re.IGNORECASE)
_REQUIRED = re.compile(r"(?im)^(?!\s*#).*?(?<![\w/.-])flashcore(?![\w-])")
_REQUIREMENT_NAMES = frozenset(
    {"pyproject.toml", "setup.cfg", "setup.py", "Pipfile", "environment.yml", "environment.yaml"}
)
_PIPELINE_NAMES = frozenset(
    {".gitlab-ci.yml", "azure-pipelines.yml", "Jenkinsfile", ".travis.yml", "tox.ini", "noxfile.py"}
)
_DOCUMENTS = frozenset({".md", ".rst", ".txt", ".adoc"})


def dependencies(paths: Sequence[Path]) -> list[str]:
    """Files that list flashcore as a dependency, as path:line."""
    return _search(paths, _is_requirement, _REQUIRED)


def pipelines(paths: Sequence[Path]) -> list[str]:
    return _search(paths, _is_pipeline, _NAMED)


def documents(paths: Sequence[Path]) -> list[str]:
    return _search(paths, lambda p: p.suffix in _DOCUMENTS and not _is_requirement(p), _NAMED)


def readmes(paths: Sequence[Path]) -> list[str]:
    return _search(paths, lambda path: path.name.lower().startswith("readme"), _NAMED)


def copies(paths: Sequence[Path]) -> list[str]:
    """Directories that hold a package named flashcore."""
    return [
        str(path.parent)
        for path in _walk(paths)
        if path.name == "__init__.py" and path.parent.name == "flashcore"
    ]


def _is_requirement(path: Path) -> bool:
    return path.name in _REQUIREMENT_NAMES or (
        path.suffix in {".txt", ".in"} and "requirements" in str(path).lower()
    )


def _is_pipeline(path: Path) -> bool:
    in_folder = any(part in {"workflows", ".circleci", ".buildkite"} for part in path.parts)
    return path.name in _PIPELINE_NAMES or (in_folder and path.suffix in {".yml", ".yaml"})


def _search(
    paths: Sequence[Path], wanted: Callable[[Path], bool], pattern: re.Pattern[str]
) -> list[str]:
    found: list[str] = []
    for path in _walk(paths):
        if not wanted(path):
            continue
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError as error:
            found.append(f"{path} (can't be read: {error.strerror})")
            continue
        match = pattern.search(text)
        if match is not None:
            found.append(f"{path}:{text.count(chr(10), 0, match.end()) + 1}")
    return found


def _walk(paths: Sequence[Path]) -> Iterator[Path]:
    for top in paths:
        yield from [top] if top.is_file() else below(top)
