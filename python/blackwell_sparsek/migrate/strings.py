"""FlashCore named in strings: dynamic imports and patches that no tool can rewrite safely."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from blackwell_sparsek.migrate.analysis import OLD, View
from blackwell_sparsek.migrate.plan import Finding
from blackwell_sparsek.migrate.shapes import string_value

_IMPORTERS = frozenset(
    {"import_module", "__import__", "find_spec", "importorskip", "patch", "setattr", "reload"}
)


def list_strings(view: View) -> Iterator[Finding]:
    """A finding for each string that is FlashCore's module path and is used as one."""
    for node in view.nodes:
        text = string_value(node)
        if text is None or text.split(".")[0] != OLD:
            continue
        if not all(part.isidentifier() for part in text.split(".")):
            continue
        parent = view.parent(node)
        call = view.parent(parent) if isinstance(parent, cst.Arg) else None
        name = ""
        if isinstance(call, cst.Call):
            func = call.func
            name = func.attr.value if isinstance(func, cst.Attribute) else view.code(func)
        if name in _IMPORTERS or isinstance(parent, cst.Annotation):
            yield view.finding(
                node,
                "imports",
                f"`{text}` is named in a string",
                "rewrite it by hand to what replaces it in `blackwell_sparsek`",
            )
