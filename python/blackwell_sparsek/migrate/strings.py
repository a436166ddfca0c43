"""FlashCore named in strings: dynamic imports, patches and code that no tool rewrites safely."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from blackwell_sparsek.migrate.analysis import BUILD, OLD, View
from blackwell_sparsek.migrate.plan import Finding
from blackwell_sparsek.migrate.shapes import string_value

_IMPORTERS = frozenset(
    {"import_module", "__import__", "find_spec", "importorskip", "patch", "setattr", "reload"}
)
_RUNNERS = frozenset({"eval", "exec", "timeit", "Timer"})
_RUNNER_MODULES = frozenset({"timeit", "cProfile", "profile", "builtins"})
_IMPORT_LINE = re.compile(r"(?m)^[\s>.]*(from\s+flashcore[\s.]|import\s+flashcore\b)")
_WORD = re.compile(r"[A-Za-z_]\w*")
_BUILD = BUILD.rpartition(".")[2]


def list_strings(view: View) -> Iterator[Finding]:
    """A finding for each string that names FlashCore to Python, and a note for each example."""
    for node in view.nodes:
        text = string_value(node)
        if text is None or (OLD not in text and _BUILD not in text):
            continue
        parts = text.split(".")
        is_path = all(part.isidentifier() for part in parts)
        imported = is_path and (parts[0] == OLD or parts[-1] == _BUILD)
        if (imported and _called(view, node) in _IMPORTERS) or _annotates(view, node, text):
            yield view.finding(
                node,
                "imports",
                f"`{text}` is named in a string",
                "rewrite it by hand to what replaces it in `blackwell_sparsek`",
            )
        elif _IMPORT_LINE.search(text):
            yield view.finding(
                node,
                "imports",
                "a string holds code that imports flashcore",
                "rewrite that code by hand",
                blocking=_runs(view, node),
            )


def _annotates(view: View, node: cst.CSTNode, text: str) -> bool:
    """Whether the string is (in) a type annotation of which FlashCore is a part."""
    return not {OLD, _BUILD}.isdisjoint(_WORD.findall(text)) and (
        view.enclosing(node, cst.Annotation) is not None
    )


def words_in_code(view: View) -> frozenset[str]:
    """Words in strings that are run as code: eval, exec, timeit and the like."""
    words: set[str] = set()
    for node in view.nodes:
        if isinstance(node, cst.SimpleString | cst.FormattedStringText) and _runs(view, node):
            text = node.value if isinstance(node, cst.FormattedStringText) else string_value(node)
            words |= set(_WORD.findall(text or ""))
    return frozenset(words)


def _runs(view: View, node: cst.CSTNode) -> bool:
    """Whether the string is an argument of something that runs it as code."""
    func = _function(view, node)
    if isinstance(func, cst.Attribute):
        return view.code(func.value) in _RUNNER_MODULES
    return func is not None and view.code(func) in _RUNNERS


def _called(view: View, node: cst.CSTNode) -> str:
    """The last name of the function to which the string is an argument, or ''."""
    func = _function(view, node)
    if func is None:
        return ""
    return func.attr.value if isinstance(func, cst.Attribute) else view.code(func)


def _function(view: View, node: cst.CSTNode) -> cst.BaseExpression | None:
    """The function to which the string is an argument."""
    parent = view.parent(node)
    while isinstance(parent, cst.ConcatenatedString | cst.FormattedString | cst.BinaryOperation):
        parent = view.parent(parent)
    call = view.parent(parent) if isinstance(parent, cst.Arg) else None
    return call.func if isinstance(call, cst.Call) else None
