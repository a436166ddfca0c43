"""A kernel: where it is built, kept and used, and why it may have to stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst
from libcst.metadata import Scope

from blackwell_sparsek.migrate.analysis import Use, View
from blackwell_sparsek.migrate.plan import Finding
from blackwell_sparsek.migrate.shapes import none_test_of


@dataclass(eq=False)
class Kernel:
    """One place that holds a built kernel: a variable, an attribute, or nothing (used at once)."""

    label: str
    builds: list[Use] = field(default_factory=list)
    forwards: list[cst.Attribute] = field(default_factory=list)
    doomed: list[cst.CSTNode] = field(default_factory=list)  # statements that go
    tests: list[cst.BaseExpression] = field(default_factory=list)  # loads inside None tests
    placeholders: list[cst.CSTNode] = field(default_factory=list)  # `kernel = None` statements
    declarations: list[cst.Global | cst.Nonlocal] = field(default_factory=list)
    renames: list[cst.BaseExpression] = field(default_factory=list)  # become the function's name
    refusals: list[Finding] = field(default_factory=list)
    scope: Scope | None = None  # of a variable
    group: frozenset[str] = frozenset()  # classes that share an attribute
    name: str = ""


def refuse(view: View, kernel: Kernel, node: cst.CSTNode, what: str, remedy: str) -> None:
    """The kernel stays, because of `node`."""
    kernel.refusals.append(view.finding(node, "build", what, remedy))


def settle_none(view: View, kernel: Kernel) -> None:
    """`kernel = None` is understood in two shapes: built lazily, or absent if the import fails."""
    lazy = [_lazy_if(view, kernel, test) for test in kernel.tests]
    if all(statement is not None for statement in lazy):
        guards = [statement for statement in lazy if statement is not None]
        optional = [p for p in kernel.placeholders if _import_handler(view, kernel, p)]
        if not optional:
            kernel.doomed = [
                node
                for node in kernel.doomed
                if not any(view.inside(node, guard) for guard in guards)
            ]
            kernel.doomed += [*guards, *kernel.placeholders]
            return
    handlers = [_import_handler(view, kernel, p) for p in kernel.placeholders]
    if kernel.scope is not None and handlers and all(handlers):
        kernel.renames += kernel.tests
        return
    for node in kernel.tests or kernel.placeholders:
        refuse(
            view,
            kernel,
            node,
            f"`{kernel.label}` may be None here",
            "call `attention_forward` without the test; for GPUs that it does not support set "
            "BSK_FALLBACK=sdpa or Config(fallback='sdpa')",
        )


def _lazy_if(view: View, kernel: Kernel, test: cst.BaseExpression) -> cst.If | None:
    """The `if kernel is None: kernel = build_baseline()` around a test, if it is nothing more."""
    found = none_test_of(view, test)
    if found is None or not found.when_none:
        return None
    statement = view.parent(found.node)
    if not isinstance(statement, cst.If) or statement.test is not found.node:
        return None
    if statement.orelse is not None or _is_elif(view, statement):
        return None
    builds = set(kernel.doomed)
    body = list(_small_statements(statement.body))
    return statement if body and all(small in builds for small in body) else None


def _is_elif(view: View, statement: cst.If) -> bool:
    parent = view.parent(statement)
    return isinstance(parent, cst.If) and parent.orelse is statement


def _small_statements(body: cst.BaseSuite) -> Iterator[cst.CSTNode]:
    for statement in body.body:
        if isinstance(statement, cst.SimpleStatementLine):
            yield from statement.body
        else:
            yield statement


def _import_handler(view: View, kernel: Kernel, placeholder: cst.CSTNode) -> bool:
    """Whether a placeholder stands in the `except` of the `try` that imports FlashCore."""
    handler = view.enclosing(placeholder, cst.ExceptHandler)
    try_ = view.parent(handler) if handler is not None else None
    if not isinstance(try_, cst.Try):
        return False
    return all(
        not use.binding.is_module
        and use.binding.scope is kernel.scope
        and any(view.inside(statement, try_.body) for statement, _ in use.binding.statements)
        for use in kernel.builds
    )
