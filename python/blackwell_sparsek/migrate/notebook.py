"""Notebooks: their code cells as one module, and back into their JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import libcst as cst

from blackwell_sparsek.migrate.analysis import OLD
from blackwell_sparsek.migrate.files import FileProblem
from blackwell_sparsek.migrate.plan import Finding

_MAGIC_LINE = re.compile(r"^(?P<indent>\s*)(?:[%!?].*|[\w., \[\]\"']+=\s*[%!].*|[^#'\"]*\?\s*)$")
_PYTHON_CELL_MAGICS = frozenset({"%%time", "%%timeit", "%%capture", "%%prun"})
_MARKER = re.compile(r"^([ \t]*)__bsk_magic_(\d+)__$", re.MULTILINE)
_OLD_WORD = re.compile(rf"\b({OLD}|CUDA_ARCH)\b")
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass
class Notebook:
    """A notebook's code cells, with magics taken out, joined into one module.

    Cells share their names, so they are analysed together; a marker statement ends each cell.
    """

    document: dict[str, Any]
    raw: str
    cells: list[int] = field(default_factory=list)  # indices in document["cells"]
    magics: list[str] = field(default_factory=list)  # the lines taken out
    source: str = ""
    starts: list[int] = field(default_factory=list)  # first line of each cell in `source`

    @property
    def opaque_words(self) -> frozenset[str]:
        """Words that magics use."""
        return frozenset(word for line in self.magics for word in _WORD.findall(line))

    def findings(self) -> Iterator[Finding]:
        """A finding for each magic that names FlashCore: no tool knows what the shell does with it."""
        for number, line in enumerate(self.source.split("\n"), 1):
            marker = _MARKER.match(line)
            if marker is not None and _OLD_WORD.search(magic := self.magics[int(marker[2])]):
                yield Finding(
                    number,
                    len(marker[1]) + 1,
                    "imports",
                    f"`{magic.splitlines()[0].strip()}` names FlashCore in a magic",
                    "rewrite that line by hand",
                )

    def place(self, line: int) -> tuple[int, int]:
        """(cell, counted from 1 among all cells; line in that cell) of a line of `source`."""
        for index in reversed(range(len(self.starts))):
            if line >= self.starts[index]:
                return self.cells[index] + 1, line - self.starts[index] + 1
        return 1, line

    def split(self, source: str) -> list[str]:
        """The cells' sources out of a rewritten `source`."""
        parts = re.split(r"^__bsk_cell_\d+__\n", source, flags=re.MULTILINE)
        if len(parts) != len(self.cells) + 1 or parts[-1]:
            raise FileProblem("the cells can't be told apart after the migration, which is a bug")
        return [self._restore(part[:-1]) for part in parts[:-1]]

    def _restore(self, text: str) -> str:
        return _MARKER.sub(lambda match: self.magics[int(match[2])], text)

    def render(self, source: str) -> str:
        """The notebook's JSON with the cells of `source`, formatted as the file was."""
        changed = json.loads(json.dumps(self.document))
        for index, text in zip(self.cells, self.split(source), strict=True):
            cell = changed["cells"][index]
            if text != cell_source(cell):
                as_list = isinstance(cell["source"], list)
                cell["source"] = text.splitlines(keepends=True) if as_list else text
        return _dump_like(self.raw, self.document, changed)


def parse(raw: str) -> Notebook | None:
    """Read a notebook; None if its language is not Python.

    Raises FileProblem if it isn't a valid notebook of format 4, ImportError without nbformat.
    """
    import nbformat

    try:
        document = json.loads(raw)
        read = nbformat.reads(raw, as_version=nbformat.NO_CONVERT)  # type: ignore[no-untyped-call]
        nbformat.validate(read)
    except json.JSONDecodeError as error:
        raise FileProblem(f"line {error.lineno}: not JSON: {error.msg}") from error
    except Exception as error:  # nbformat raises many kinds
        raise FileProblem(f"not a valid notebook: {str(error).splitlines()[0]}") from error
    if document.get("nbformat") != 4:
        raise FileProblem("a notebook of an old format: save it with a current Jupyter first")
    metadata = document.get("metadata", {})
    language = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get(
        "language", "python"
    )
    if language.lower() not in {"python", "ipython"}:
        return None
    notebook = Notebook(document, raw)
    parts: list[str] = []
    line = 1
    for index, cell in enumerate(document["cells"]):
        if cell["cell_type"] != "code":
            continue
        text = _without_magics(cell_source(cell), notebook.magics, index)
        parts.append(f"{text}\n__bsk_cell_{index}__\n")
        notebook.cells.append(index)
        notebook.starts.append(line)
        line += parts[-1].count("\n")
    notebook.source = "".join(parts)
    return notebook


def cell_source(cell: dict[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _without_magics(source: str, magics: list[str], index: int) -> str:
    """The cell as Python: each magic line replaced by a marker of the same indentation."""
    if _is_python(source):
        return source
    lines = source.split("\n")
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%") and first.split()[0] not in _PYTHON_CELL_MAGICS:
        magics.append(source)
        return f"__bsk_magic_{len(magics) - 1}__"
    result: list[str] = []
    position = 0
    while position < len(lines):
        match = _MAGIC_LINE.match(lines[position])
        if match is None:
            result.append(lines[position])
            position += 1
            continue
        taken = [lines[position]]
        while taken[-1].endswith("\\") and position + 1 < len(lines):
            position += 1
            taken.append(lines[position])
        position += 1
        magics.append("\n".join(taken))
        result.append(f"{match['indent']}__bsk_magic_{len(magics) - 1}__")
    text = "\n".join(result)
    if not _is_python(text):
        raise FileProblem(f"cell {index + 1}: not valid Python")
    return text


def _is_python(source: str) -> bool:
    try:
        cst.parse_module(source)
    except cst.ParserSyntaxError:
        return False
    return True


def _dump_like(raw: str, document: dict[str, Any], changed: dict[str, Any]) -> str:
    """`changed` as JSON in the formatting of `raw`, which is `document`."""
    newline = "\r\n" if "\r\n" in raw else "\n"
    body = raw.replace("\r\n", "\n")
    tail = body[len(body.rstrip()) :]
    indent = re.match(r"\{\n([ \t]+)", body)
    candidates: list[dict[str, Any]] = [
        {"indent": width, "ensure_ascii": ascii_only, "separators": separators}
        for width in ([indent[1]] if indent else [None])
        for ascii_only in (False, True)
        for separators in ((",", ": "), (", ", ": "), (",", ":"))
    ]
    exact = [c for c in candidates if json.dumps(document, **c) == body.rstrip()]
    text = json.dumps(changed, **(exact or candidates)[0]) + tail
    return text.replace("\n", newline)
