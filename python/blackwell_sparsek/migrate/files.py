"""Finding, reading and replacing files without losing anything of them."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".py", ".pyw", ".pyi", ".ipynb"})
_SKIPPED = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".eggs",
        ".nox",
        ".tox",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
        "__pycache__",
        "node_modules",
        "site-packages",
    }
)


class FileProblem(Exception):
    """A file that can't be read, understood or written; the message says why."""


@dataclass(frozen=True)
class Text:
    """A file's text with its newlines as they are, and what is needed to write it back."""

    data: bytes
    text: str
    encoding: str


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """The Python files and notebooks at or below `paths`, sorted, each once.

    Version control, caches and virtual environments are skipped unless named themselves. A path
    that doesn't exist is yielded too, so that reading it reports it.
    """
    seen: set[str] = set()
    for path in paths:
        below_path = (p for p in below(path) if p.suffix in SUFFIXES)
        for found in below_path if path.is_dir() else [path]:
            real = os.path.realpath(found)  # Path.resolve raises where links lead in a circle
            if real not in seen:
                seen.add(real)
                yield found


def below(top: Path) -> Iterator[Path]:
    """Every file below a directory, sorted; version control, caches and environments skipped."""
    for folder, folders, names in os.walk(top):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED and not (here / name / "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            yield here / name


def read(path: Path) -> Text:
    """Read a Python file by its own rules (BOM, coding line) or a notebook (UTF-8)."""
    if path.suffix not in SUFFIXES:
        if not path.exists():
            raise FileProblem("no such file or directory")
        raise FileProblem(f"not a Python file or notebook ({', '.join(sorted(SUFFIXES))})")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileProblem(f"can't be read: {error.strerror}") from error
    try:
        if path.suffix == ".ipynb":
            encoding = "utf-8-sig" if data.startswith(b"\xef\xbb\xbf") else "utf-8"
        else:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, LookupError, UnicodeDecodeError) as error:
        raise FileProblem(f"can't be decoded: {error}") from error
    if "\0" in text:
        raise FileProblem("holds NUL bytes, so it isn't Python")
    return Text(data, text, encoding)


def replace(path: Path, old: Text, new: str) -> None:
    """Put `new` in the file's place at once, with its encoding and mode.

    Raises FileProblem, and changes nothing, if the file has changed since it was read.
    """
    target = path.resolve()  # a link stays a link
    temporary: str | None = None
    try:
        data = new.encode(old.encoding)
        if target.read_bytes() != old.data:
            raise FileProblem("has been changed by something else meanwhile; run again")
        if not os.access(target, os.W_OK):
            raise FileProblem("can't be written: it is read-only")
        status = target.stat()
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, stat.S_IMODE(status.st_mode))
        with contextlib.suppress(PermissionError):
            os.chown(temporary, status.st_uid, status.st_gid)
        os.replace(temporary, target)
        temporary = None
    except UnicodeEncodeError as error:
        raise FileProblem(f"can't be encoded as {old.encoding}: {error}") from error
    except OSError as error:
        raise FileProblem(f"can't be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
