"""Migrating many files: what each exports to the others, and each file's report."""

from __future__ import annotations

import ast
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blackwell_sparsek.migrate import files, notebook
from blackwell_sparsek.migrate.engine import SourceError, migrate_source
from blackwell_sparsek.migrate.plan import Finding


@dataclass
class FileReport:
    """What became of one file. `before` and `after`: (name, text) pairs to compare for a diff."""

    path: Path
    before: list[tuple[str, str]] = field(default_factory=list)
    after: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    problem: str | None = None
    written: bool = False

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def left(self) -> list[Finding]:
        """What a person must do."""
        return [finding for finding in self.findings if finding.blocking]


@dataclass
class _Source:
    path: Path
    file: files.Text
    code: str
    book: notebook.Notebook | None = None


def migrate_paths(
    paths: Sequence[Path], write: bool = False, config_object: bool = False
) -> list[FileReport]:
    """Migrate every Python file and notebook at or below `paths`.

    One file's trouble (unreadable, invalid, read-only) is its report's `problem`; the others go on.
    With `write` the files are replaced, else nothing is touched.
    """
    sources: list[_Source] = []
    reports: list[FileReport] = []
    for path in files.walk(paths):
        try:
            source = _load(path)
        except files.FileProblem as error:
            reports.append(FileReport(path, problem=str(error)))
        else:
            if source is not None:
                sources.append(source)
    exports = _Exports([(source.path, source.code) for source in sources])
    for source in sources:
        reports.append(_migrate(source, exports.of(source.path), write, config_object))
    return sorted(reports, key=lambda report: str(report.path))


def _load(path: Path) -> _Source | None:
    text = files.read(path)
    if path.suffix != ".ipynb":
        return _Source(path, text, text.text)
    book = notebook.parse(text.text)
    return _Source(path, text, book.source, book) if book is not None else None


def _migrate(
    source: _Source, exported: frozenset[str], write: bool, config_object: bool
) -> FileReport:
    report = FileReport(source.path)
    book = source.book
    try:
        opaque = book.opaque_words if book is not None else frozenset()
        result = migrate_source(source.code, exported, opaque, config_object)
        report.findings = result.findings
        report.changes = result.changes
        if book is None:
            new = result.source
            report.before, report.after = [("", source.code)], [("", new)]
        else:
            new = book.render(result.source) if result.source != source.code else source.file.text
            findings = sorted({*result.findings, *book.findings()})
            report.findings = [_in_cell(book, finding) for finding in findings]
            names = [f"cell {index + 1}" for index in book.cells]
            report.before = list(zip(names, book.split(book.source), strict=True))
            report.after = list(zip(names, book.split(result.source), strict=True))
        if write and report.changed:
            files.replace(source.path, source.file, new)
            report.written = True
    except SourceError as error:
        report.problem = str(error)
    except RecursionError:
        report.problem = "nested too deeply to be analysed"
    except files.FileProblem as error:
        report.problem = str(error)
    except Exception as error:  # one file's surprise must not cost the others their migration
        report.problem = f"left as it is, by a bug of bsk migrate: {type(error).__name__}: {error}"
        report.after = report.before
    return report


def _in_cell(book: notebook.Notebook, finding: Finding) -> Finding:
    cell, line = book.place(finding.line)
    return dataclasses.replace(finding, cell=cell, line=line)


class _Exports:
    """Which names of each module the other files use: by import, by attribute, by inheritance."""

    def __init__(self, sources: Sequence[tuple[Path, str]]) -> None:
        self.used: list[tuple[Path, set[tuple[str, str]], set[str]]] = []
        for path, code in sources:
            try:
                tree = ast.parse(code)
            except (SyntaxError, ValueError, RecursionError):
                continue
            self.used.append((path, *_uses(tree)))

    def of(self, path: Path) -> frozenset[str]:
        stem = path.parent.name if path.stem == "__init__" else path.stem
        names: set[str] = set()
        for other, imported, attributes in self.used:
            if other != path:
                names |= {name for module, name in imported if module == stem}
                names |= attributes
        return frozenset(names)


def _uses(tree: ast.AST) -> tuple[set[tuple[str, str]], set[str]]:
    """((module's last part, name) pairs that the file reads, `.attribute`s called `.forward`)."""
    imported: set[tuple[str, str]] = set()
    attributes: set[str] = set()
    own_attributes: set[str] = set()
    modules: dict[str, str] = {}
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                last = alias.name.rpartition(".")[2]
                modules[alias.asname or last] = last
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").rpartition(".")[2]
            for alias in node.names:
                names = words if alias.name == "*" else {alias.name}
                imported |= {(module, name) for name in names}
                modules[alias.asname or alias.name] = alias.name
        elif (
            isinstance(node, ast.Attribute)
            and node.attr == "forward"
            and isinstance(node.value, ast.Attribute)
        ):
            base = node.value.value
            own = isinstance(base, ast.Name) and base.id in {"self", "cls"}
            (own_attributes if own else attributes).add(f".{node.value.attr}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            last = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            imported.add((modules.get(last, last), node.attr))
    # A class that inherits from another file's may use its attributes through self.
    imported |= {(module, name) for module in modules.values() for name in own_attributes}
    imported |= {(module, name) for module, _ in set(imported) for name in own_attributes}
    return imported, attributes
