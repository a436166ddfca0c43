"""From a module's source to its migrated source: analyse, decide, apply, check."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field

import libcst as cst

from blackwell_sparsek.migrate.analysis import BUILD, NEW, OLD, Binding, View
from blackwell_sparsek.migrate.apply import apply
from blackwell_sparsek.migrate.holder import Kernel
from blackwell_sparsek.migrate.imports import (
    Spelling,
    new_local,
    plan_imports,
    plan_optional,
    rename_placeholder,
)
from blackwell_sparsek.migrate.kernels import find_kernels
from blackwell_sparsek.migrate.measuring import Step, study
from blackwell_sparsek.migrate.plan import Finding, Plan
from blackwell_sparsek.migrate.rollout import plan_flags, refuse_bindings, refuse_comparisons
from blackwell_sparsek.migrate.settings import plan_settings
from blackwell_sparsek.migrate.shapes import is_none, statement_of_target, string_value
from blackwell_sparsek.migrate.strings import list_strings, words_in_code


class SourceError(ValueError):
    """The source is not valid Python; the message says where."""


@dataclass
class Result:
    """A module's new source (equal to the old one where nothing changes), and what is left."""

    source: str
    findings: list[Finding] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)


def migrate_source(
    source: str,
    exported: frozenset[str] = frozenset(),
    opaque: frozenset[str] = frozenset(),
    config_object: bool = False,
) -> Result:
    """Migrate one module from FlashCore's API to BlackwellSparseK's.

    `exported`: module-level names (`name`) and attributes (`.name`) that other files use, so that
    they must stay; `opaque`: words used where this tool can't rewrite (notebook magics).
    `config_object`: write configuration as a Config instead of as BSK_* environment variables.
    Raises SourceError if `source` isn't valid Python.
    """
    if not any(word in source for word in (OLD, "build_baseline", "CUDA_ARCH")):
        return Result(source)
    try:
        view = View(source)
    except cst.ParserSyntaxError as error:
        raise SourceError(
            f"line {error.raw_line}, column {error.raw_column + 1}: not valid Python"
        ) from error
    plan = _plan(view, exported, opaque, config_object)
    findings = sorted(set(plan.findings))
    if not plan.touches():
        return Result(source, findings)
    new = apply(view, plan)
    if _parses(source) and not _parses(new):
        raise AssertionError("a bug of bsk migrate: it made invalid Python out of valid Python")
    return Result(new, findings, plan.changes)


def _parses(source: str) -> bool:
    """Whether this Python can parse it; LibCST also knows the syntax of others."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _plan(
    view: View, exported: frozenset[str], opaque: frozenset[str], config_object: bool
) -> Plan:
    plan = Plan()
    plan.report(view.strange_imports)
    uses_flashcore = bool(view.bindings or view.strange_imports)
    plan_settings(view, plan, uses_flashcore, NEW in view.words, config_object)
    plan.report(list_strings(view))
    if not view.bindings:
        return plan
    exported = exported | _dunder_all(view)
    opaque = opaque | words_in_code(view)
    kernels = find_kernels(view, exported, opaque)
    refuse_comparisons(view, kernels)
    held, held_kernels, steps = _decide(view, plan, kernels, exported, opaque)
    moving = [kernel for kernel in kernels if kernel not in held_kernels]
    spelling = Spelling(view, plan)
    for kernel in moving:
        _emit_kernel(view, plan, spelling, kernel)
    for step in steps:
        if step.use.binding not in held:
            step.emit(plan)
    useful = {use.binding for kernel in moving for use in kernel.builds}
    needed = {use.binding for kernel in held_kernels for use in kernel.builds}
    needed |= {binding for binding in view.bindings if _is_exported(binding, exported)}
    held |= needed - useful
    kept = needed - held
    for binding in view.bindings:
        if binding not in held and binding.others:
            plan_optional(view, plan, spelling, binding)
            for use in binding.uses:
                if not any(use in kernel.builds for kernel in kernels):
                    plan.replace(use.node, spelling.name, "imports")
        if binding not in held and binding.is_module and binding.local == OLD:
            _rename_roots(view, plan, binding)
    plan_imports(view, plan, spelling, held, kept)
    plan_flags(view, plan, moving, held)
    return plan


def _decide(
    view: View,
    plan: Plan,
    kernels: list[Kernel],
    exported: frozenset[str],
    opaque: frozenset[str],
) -> tuple[set[Binding], set[Kernel], list[Step]]:
    """What stays: a binding stays whole if one of its uses must, and a kernel if its binding does.

    `from flashcore import build_baseline` alone may stay beside the new import.
    """
    held: set[Binding] = set()
    for binding, finding in refuse_bindings(view).items():
        plan.report([finding])
        held.add(binding)
    for binding in view.bindings:
        reason = _binding_refusal(view, binding, exported, opaque)
        if reason is not None:
            plan.report([reason])
            if binding.target != BUILD or binding.others:
                held.add(binding)
    held_kernels = {kernel for kernel in kernels if kernel.refusals}
    while True:
        before = len(held) + len(held_kernels)
        for kernel in kernels:
            bindings = {use.binding for use in kernel.builds}
            if kernel in held_kernels:
                held |= {b for b in bindings if b.is_module or b.others}
            elif bindings & held:
                held_kernels.add(kernel)
        forwards = [f for k in kernels if k not in held_kernels for f in k.forwards]
        steps = [
            study(view, use, forwards)
            for binding in view.bindings
            for use in binding.uses
            if use.target != BUILD and use.target.count(".") == 2
        ]
        held |= {step.use.binding for step in steps if step.refusals}
        if len(held) + len(held_kernels) == before:
            break
    for kernel in kernels:
        plan.report(kernel.refusals)
    for step in steps:
        plan.report(step.refusals)
    return held, held_kernels, steps


def _binding_refusal(
    view: View, binding: Binding, exported: frozenset[str], opaque: frozenset[str]
) -> Finding | None:
    if not binding.statements:
        return None
    statement = binding.statements[0][0]
    if binding.local in opaque:
        return view.finding(
            statement,
            "imports",
            f"`{binding.local}` is used in a string of code or a notebook magic",
            "migrate that line by hand, then run again",
        )
    if _is_exported(binding, exported):
        return view.finding(
            statement,
            "imports",
            f"`{binding.local}` is imported from here by other code (or listed in __all__)",
            "migrate the files that import it, then remove it here",
        )
    if binding.others and not all(_is_absent_marker(view, binding, o) for o in binding.others):
        return view.finding(
            statement,
            "imports",
            f"`{binding.local}` is FlashCore's or something else",
            "give each its own name (a fall-back: guide, Issue 3), then run again",
        )
    for use in binding.uses:
        if use.target not in {BUILD} and use.target.count(".") < 2:
            return view.finding(
                use.node,
                "imports",
                f"`{view.code(use.node)}` is not in the migration guide",
                "write out `build_baseline`, `utils.validate_correctness` or "
                "`utils.benchmark_latency`, or replace it by hand",
            )
    return None


def _is_exported(binding: Binding, exported: frozenset[str]) -> bool:
    return binding.local in exported and binding.scope is binding.scope.globals


def _is_absent_marker(view: View, binding: Binding, node: cst.CSTNode) -> bool:
    """Whether `node` is the target of `build_baseline = None` where the import has failed."""
    statement = statement_of_target(view, node)
    if binding.target != BUILD or statement is None or not is_none(statement.value):
        return False
    handler = view.enclosing(statement, cst.ExceptHandler)
    try_ = view.parent(handler) if handler is not None else None
    return isinstance(try_, cst.Try) and all(
        view.inside(imported, try_.body) for imported, _ in binding.statements
    )


def _emit_kernel(view: View, plan: Plan, spelling: Spelling, kernel: Kernel) -> None:
    bindings = [use.binding for use in kernel.builds]
    for forward in kernel.forwards:
        plan.replace(forward, spelling.at(bindings, view.scope_of(forward)), "build")
    for statement in kernel.doomed:
        plan.remove(statement, "build")
    for declaration in kernel.declarations:
        _shrink(plan, declaration, kernel.name)
    if kernel.renames:
        handled = {
            id(view.enclosing(other, cst.ExceptHandler))
            for binding in bindings
            for other in binding.others
        }
        for placeholder in kernel.placeholders:
            assert isinstance(placeholder, cst.Assign | cst.AnnAssign)
            target = (
                placeholder.targets[0].target
                if isinstance(placeholder, cst.Assign)
                else placeholder.target
            )
            rename_placeholder(view, plan, spelling, placeholder, target, handled)
        for node in kernel.renames:
            plan.replace(node, spelling.name, "build")


def _shrink(plan: Plan, declaration: cst.Global | cst.Nonlocal, name: str) -> None:
    """Take a name out of a `global` statement, or the statement away."""
    if len(declaration.names) == 1:
        plan.remove(declaration, "build")
        return

    def edit(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Global | cst.Nonlocal)
        names = [item for item in node.names if item.name.value != name]
        names[-1] = names[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return node.with_changes(names=names)

    plan.edit(declaration, edit, "build")


def _rename_roots(view: View, plan: Plan, binding: Binding) -> None:
    """`flashcore.utils.x` becomes `blackwell_sparsek.utils.x`."""
    for use in binding.uses:
        if use.target == BUILD:
            continue
        root = use.node
        while isinstance(root, cst.Attribute):
            root = root.value
        plan.replace(root, new_local(binding), "imports")


def _dunder_all(view: View) -> frozenset[str]:
    names: set[str] = set()
    for node in view.nodes:
        if isinstance(node, cst.Assign):
            target = node.targets[0].target
        elif isinstance(node, cst.AnnAssign | cst.AugAssign):
            target = node.target
        else:
            continue
        named = isinstance(target, cst.Name) and target.value == "__all__"
        if named and isinstance(node.value, cst.List | cst.Tuple):
            names |= {string_value(element.value) or "" for element in node.value.elements}
    return frozenset(names)
