"""Import statements: each FlashCore name becomes its counterpart, or stays while it is needed."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst
from libcst.helpers import get_full_name_for_node
from libcst.metadata import Scope

from blackwell_sparsek.migrate.analysis import BUILD, NEW, OLD, Binding, Import, View
from blackwell_sparsek.migrate.plan import Edit, Plan
from blackwell_sparsek.migrate.shapes import statement_of_target

ATTENTION = "attention_forward"


class Spelling:
    """How `attention_forward` is written at a given place of this module."""

    def __init__(self, view: View, plan: Plan) -> None:
        self.view = view
        self.plan = plan
        self.present = {
            id(view.scope_of(name))
            for name in view.nodes
            if isinstance(name, cst.ImportFrom) and _imports_attention(name)
        }
        taken = any(
            name.value == ATTENTION
            and view.contexts.get(name) is not None
            and view.contexts[name].name == "STORE"
            for name in view.names
        )
        taken = taken or any(_binds_another(node) for node in view.nodes)
        self.name = f"bsk_{ATTENTION}" if taken else ATTENTION

    def imported(self) -> str:
        """The name as it stands in an import."""
        return self.name if self.name == ATTENTION else f"{ATTENTION} as {self.name}"

    def at(self, bindings: Sequence[Binding], user: Scope) -> str:
        """The expression for a use in scope `user` of a kernel built through `bindings`."""
        for binding in bindings:
            if binding.statements and self.view.is_visible(binding.scope, user):
                if binding.is_module:
                    return f"{new_local(binding)}.{ATTENTION}"
                return self.name
        self.plan.module_imports.add((NEW, self.imported()))
        return self.name


def new_local(binding: Binding) -> str:
    return NEW if binding.local == OLD else binding.local


def _imports_attention(node: cst.ImportFrom) -> bool:
    return (
        node.module is not None
        and get_full_name_for_node(node.module) == NEW
        and not isinstance(node.names, cst.ImportStar)
        and any(a.evaluated_name == ATTENTION and a.asname is None for a in node.names)
    )


def _binds_another(node: cst.CSTNode) -> bool:
    """Whether an import gives the name `attention_forward` to something of another library."""
    if not isinstance(node, cst.Import | cst.ImportFrom) or isinstance(node.names, cst.ImportStar):
        return False
    if isinstance(node, cst.ImportFrom) and _imports_attention(node):
        return False
    return any((alias.evaluated_alias or alias.evaluated_name) == ATTENTION for alias in node.names)


def plan_imports(
    view: View, plan: Plan, spelling: Spelling, held: set[Binding], kept: set[Binding]
) -> None:
    """Rewrite every import of FlashCore.

    `held` bindings stay as they are; `kept` ones stay, and gain `attention_forward` beside them.
    """
    statements: dict[Import, list[tuple[cst.ImportAlias, Binding]]] = {}
    for binding in view.bindings:
        for statement, alias in binding.statements:
            statements.setdefault(statement, []).append((alias, binding))
    for statement, entries in statements.items():
        if all(binding in held for _, binding in entries):
            continue
        if isinstance(statement, cst.Import):
            plan.edit(statement, _rename_modules(entries, held), "imports")
        else:
            _plan_from(view, plan, spelling, statement, entries, held, kept)


def _rename_modules(entries: list[tuple[cst.ImportAlias, Binding]], held: set[Binding]) -> Edit:
    moving = {alias.evaluated_name for alias, binding in entries if binding not in held}

    def edit(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Import)
        names = []
        for alias in node.names:
            if alias.evaluated_name in moving:
                new = alias.evaluated_name.replace(OLD, NEW, 1)
                alias = alias.with_changes(name=cst.parse_expression(new))
                if alias.evaluated_alias == OLD:
                    alias = alias.with_changes(asname=None)
            names.append(alias)
        return node.with_changes(names=names)

    return edit


def _plan_from(
    view: View,
    plan: Plan,
    spelling: Spelling,
    statement: cst.ImportFrom,
    entries: list[tuple[cst.ImportAlias, Binding]],
    held: set[Binding],
    kept: set[Binding],
) -> None:
    assert statement.module is not None and not isinstance(statement.names, cst.ImportStar)
    scope = view.scope_of(statement)
    by_alias = {id(alias): binding for alias, binding in entries}
    staying: list[cst.ImportAlias] = []
    moving: list[cst.ImportAlias] = []
    local = scope is not scope.globals
    attention = id(scope) in spelling.present and spelling.name == ATTENTION
    for alias in statement.names:
        binding = by_alias.get(id(alias))
        if binding is None or binding in held:
            staying.append(alias)
            continue
        if binding in kept:
            staying.append(alias)
        if binding.target != BUILD:
            moving.append(alias)
        elif not attention and not (local and (NEW, spelling.imported()) in plan.module_imports):
            attention = True
            # A build_baseline without its name's alias: the new function is another thing.
            new = cst.parse_statement(f"from x import {spelling.imported()}")
            moving.append(
                new.body[0].names[0].with_changes(comma=alias.comma)  # type: ignore[union-attr,index]
            )
    if attention:
        spelling.present.add(id(scope))
    module = get_full_name_for_node(statement.module) or OLD
    new_module = cst.parse_expression(module.replace(OLD, NEW, 1))
    assert isinstance(new_module, cst.Name | cst.Attribute)
    if not moving:
        if not staying:
            plan.remove(statement, "imports")
        elif len(staying) < len(statement.names):
            plan.edit(statement, lambda n: n.with_changes(names=_close(n, staying)), "imports")
        return
    if not staying:

        def move(node: cst.CSTNode) -> cst.CSTNode:
            assert isinstance(node, cst.ImportFrom)
            return node.with_changes(module=new_module, names=_close(node, moving))

        plan.edit(statement, move, "imports")
        return
    addition = cst.ImportFrom(new_module, _close(None, moving))
    line = view.parent(statement)
    if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1:

        def split(node: cst.CSTNode) -> cst.FlattenSentinel[cst.BaseStatement]:
            assert isinstance(node, cst.SimpleStatementLine)
            old = node.body[0].with_changes(names=_close(node.body[0], staying))
            return cst.FlattenSentinel(
                [
                    cst.SimpleStatementLine([addition], leading_lines=node.leading_lines),
                    node.with_changes(body=[old], leading_lines=[]),
                ]
            )

        plan.edit(line, split, "imports")
        return

    def join(node: cst.CSTNode) -> cst.FlattenSentinel[cst.BaseSmallStatement]:
        assert isinstance(node, cst.ImportFrom)
        semicolon = cst.Semicolon(whitespace_after=cst.SimpleWhitespace(" "))
        return cst.FlattenSentinel(
            [
                addition.with_changes(semicolon=semicolon),
                node.with_changes(names=_close(node, staying)),
            ]
        )

    plan.edit(statement, join, "imports")


def _close(node: cst.CSTNode | None, names: Sequence[cst.ImportAlias]) -> list[cst.ImportAlias]:
    """Names whose last comma is the one the statement had at its end (a trailing one, or none)."""
    last: cst.Comma | cst.MaybeSentinel = cst.MaybeSentinel.DEFAULT
    if (
        isinstance(node, cst.ImportFrom)
        and not isinstance(node.names, cst.ImportStar)
        and node.lpar is not None
    ):
        last = node.names[-1].comma
    separator = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    keeps_layout = node is not None  # a new statement has no parentheses to break lines in
    closed = [
        name
        if keeps_layout and isinstance(name.comma, cst.Comma)
        else name.with_changes(comma=separator)
        for name in names[:-1]
    ]
    return [*closed, names[-1].with_changes(comma=last)]


def plan_optional(view: View, plan: Plan, spelling: Spelling, binding: Binding) -> None:
    """`build_baseline = None` in the `except` of its import: the new name is None there."""
    handled: set[int] = set()
    for node in binding.others:
        statement = statement_of_target(view, node)
        assert statement is not None
        rename_placeholder(view, plan, spelling, statement, node, handled)


def rename_placeholder(
    view: View,
    plan: Plan,
    spelling: Spelling,
    statement: cst.Assign | cst.AnnAssign,
    target: cst.CSTNode,
    handled: set[int],
) -> None:
    """`kernel = None` in an except handler becomes `attention_forward = None`, once a handler."""
    handler = view.enclosing(statement, cst.ExceptHandler)
    if id(handler) in handled:
        plan.remove(statement, "imports")
        return
    handled.add(id(handler))
    if isinstance(statement, cst.AnnAssign):
        target_name = cst.AssignTarget(cst.Name(spelling.name))
        plan.edit(statement, lambda _: cst.Assign([target_name], cst.Name("None")), "imports")
    else:
        plan.replace(target, spelling.name, "imports")
