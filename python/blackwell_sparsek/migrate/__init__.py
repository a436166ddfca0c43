"""Moving code from FlashCore's API to BlackwellSparseK's: `bsk migrate PATH`.

    from blackwell_sparsek.migrate import migrate_source
    result = migrate_source(old_source)  # .source, .findings

Needs the `migrate` extra (LibCST, nbformat), which is looked for at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blackwell_sparsek.migrate import _extra
from blackwell_sparsek.migrate.command import migrate_command

if TYPE_CHECKING:
    from blackwell_sparsek.migrate.engine import Result, SourceError, migrate_source
    from blackwell_sparsek.migrate.plan import Finding
    from blackwell_sparsek.migrate.project import FileReport, migrate_paths

__all__ = [
    "FileReport",
    "Finding",
    "Result",
    "SourceError",
    "migrate_command",
    "migrate_paths",
    "migrate_source",
]

_HOMES = {
    "FileReport": "project",
    "Finding": "plan",
    "Result": "engine",
    "SourceError": "engine",
    "migrate_paths": "project",
    "migrate_source": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _extra.require("libcst", "nbformat")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
