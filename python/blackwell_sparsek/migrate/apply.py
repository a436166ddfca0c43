"""Carry out a plan on the tree: one walk, comments kept, blocks never left empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libcst as cst

from blackwell_sparsek.migrate.analysis import View
from blackwell_sparsek.migrate.plan import Plan


def apply(view: View, plan: Plan) -> str:
    """The module's new source."""
    module = view.module.visit(_Apply(plan))
    assert isinstance(module, cst.Module)
    if plan.module_imports:
        module = _add_imports(module, sorted(plan.module_imports))
    return module.code


# Stands where a statement was until its block is rebuilt: LibCST drops lines that are truly empty.
_HOLE = cst.SimpleStatementLine([cst.Expr(cst.Name("__removed_by_bsk_migrate__"))])


class _Apply(cst.CSTTransformer):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        node: Any = super().on_leave(original_node, updated_node)
        if original_node in self.plan.removed:
            if isinstance(original_node, cst.BaseSmallStatement):
                return cst.RemoveFromParent()
            return _HOLE.with_changes(leading_lines=_comments_of(original_node))
        for edit in self.plan.edits.get(original_node, ()):
            node = edit(node)
        if isinstance(node, cst.SimpleStatementLine):
            if node.body:
                return _close(node)
            return _HOLE.with_changes(leading_lines=_comments_of(original_node))
        if isinstance(node, cst.Module | cst.IndentedBlock):
            return _drop_holes(node)
        return node


def _close(line: cst.SimpleStatementLine) -> cst.SimpleStatementLine:
    """Take a semicolon away that has lost what came after it."""
    last = line.body[-1]
    semicolon = getattr(last, "semicolon", cst.MaybeSentinel.DEFAULT)
    if isinstance(semicolon, cst.Semicolon):
        last = last.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)
        return line.with_changes(body=[*line.body[:-1], last])
    return line


def _drop_holes(block: cst.Module | cst.IndentedBlock) -> cst.Module | cst.IndentedBlock:
    """Remove the holes left by removed statements; what follows takes their comments."""
    if not any(_is_hole(statement) for statement in block.body):
        return block
    body: list[Any] = []
    carried: list[cst.EmptyLine] = []
    for statement in block.body:
        if _is_hole(statement):
            assert isinstance(statement, cst.SimpleStatementLine)
            carried = _merge(carried, statement.leading_lines)
        elif carried:
            lines = _merge(carried, statement.leading_lines)  # type: ignore[attr-defined]
            body.append(statement.with_changes(leading_lines=lines))
            carried = []
        else:
            body.append(statement)
    if not body and isinstance(block, cst.IndentedBlock):
        lines = carried if _has_comment(carried) else []
        body = [cst.SimpleStatementLine([cst.Pass()], leading_lines=lines)]
        carried = []
    footer = [*carried, *block.footer] if _has_comment(carried) else block.footer
    return block.with_changes(body=body, footer=footer)


def _is_hole(statement: cst.CSTNode) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and any(
        small is _HOLE.body[0] for small in statement.body
    )


def _merge(first: Sequence[cst.EmptyLine], second: Sequence[cst.EmptyLine]) -> list[cst.EmptyLine]:
    """Comments of both; where the first has none, the longer of the two gaps."""
    if _has_comment(first):
        return [*first, *second]
    if _has_comment(second) or len(second) >= len(first):
        return list(second) if second else list(first)
    return list(first)


def _has_comment(lines: Sequence[cst.EmptyLine]) -> bool:
    return any(line.comment is not None for line in lines)


def _comments_of(node: cst.CSTNode) -> list[cst.EmptyLine]:
    """The lines before a statement, and every comment in it, one a line."""
    lines = list(getattr(node, "leading_lines", ()))
    leading = {id(line.comment) for line in lines}

    def walk(child: cst.CSTNode) -> None:
        if isinstance(child, cst.Comment) and id(child) not in leading:
            lines.append(cst.EmptyLine(comment=child))
        for grandchild in child.children:
            walk(grandchild)

    walk(node)
    return lines


def _add_imports(module: cst.Module, imports: Sequence[tuple[str, str]]) -> cst.Module:
    """`from <module> import <name>` before the first statement that is not a docstring."""
    body: list[Any] = list(module.body)
    index = 0
    while index < len(body) and _comes_first(body[index], index):
        index += 1
    lines: list[Any] = []
    for home in sorted({home for home, _ in imports}):
        names = ", ".join(name for owner, name in imports if owner == home)
        lines.append(cst.parse_statement(f"from {home} import {names}"))
    follower = body[index] if index < len(body) else None
    small = follower.body[0] if isinstance(follower, cst.SimpleStatementLine) else None
    if follower is not None and isinstance(small, cst.Import | cst.ImportFrom):
        lines[0] = lines[0].with_changes(leading_lines=follower.leading_lines)
        body[index] = follower.with_changes(leading_lines=[])
    elif index:
        lines[0] = lines[0].with_changes(leading_lines=[cst.EmptyLine(indent=False)])
    return module.with_changes(body=[*body[:index], *lines, *body[index:]])


def _comes_first(statement: cst.CSTNode, index: int) -> bool:
    """Whether a statement must stay above imports: the docstring, `from __future__ import`."""
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    if isinstance(small, cst.Expr):
        return index == 0 and isinstance(small.value, cst.SimpleString | cst.ConcatenatedString)
    return (
        isinstance(small, cst.ImportFrom)
        and isinstance(small.module, cst.Name)
        and small.module.value == "__future__"
    )
