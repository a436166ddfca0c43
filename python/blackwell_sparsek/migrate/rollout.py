"""Code that holds both libraries: side-by-side comparisons, fall-backs, feature flags."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import libcst as cst

from blackwell_sparsek.migrate.analysis import BENCHMARK, NEW, VALIDATE, Binding, View
from blackwell_sparsek.migrate.holder import Kernel
from blackwell_sparsek.migrate.imports import ATTENTION
from blackwell_sparsek.migrate.plan import Finding, Plan
from blackwell_sparsek.migrate.shapes import is_pure

_JUMPS = (cst.Return, cst.Raise, cst.Continue, cst.Break)
_ENVIRONMENT_READS = frozenset({"os.environ.get", "os.getenv"})


def refuse_comparisons(view: View, kernels: list[Kernel]) -> None:
    """A kernel called beside `attention_forward` on the same inputs is being compared: leave it."""
    ours = [node for node in view.nodes if isinstance(node, cst.Call) and _is_new(view, node)]
    for kernel in kernels:
        for forward in kernel.forwards:
            call = view.parent(forward)
            if not isinstance(call, cst.Call):
                continue
            for other in ours:
                if (
                    _body_of(view, call) is _body_of(view, other)
                    and _arguments(view, call) == _arguments(view, other)
                    and not _exclusive(view, other, call)
                ):
                    kernel.refusals.append(
                        view.finding(
                            call,
                            "rollout",
                            f"`{view.code(call)}` is compared with `{view.code(other)}`",
                            "finish comparing (it needs both libraries), then delete this code",
                        )
                    )
                    break


def refuse_bindings(view: View) -> dict[Binding, Finding]:
    """Bindings that stay for the sake of what the code does with both libraries."""
    refused: dict[Binding, Finding] = {}
    new_imports = [
        (node, {alias.evaluated_name for alias in node.names})
        for node in view.nodes
        if isinstance(node, cst.ImportFrom)
        and not isinstance(node.names, cst.ImportStar)
        and node.module is not None
        and not node.relative
        and view.code(node.module).split(".")[0] == NEW
    ]
    for binding in view.bindings:
        if not binding.statements:
            continue
        statement = binding.statements[0][0]
        handler = view.enclosing(statement, cst.ExceptHandler)
        try_ = view.parent(handler) if handler is not None else None
        if isinstance(try_, cst.Try) and any(
            view.inside(node, try_.body) for node, _ in new_imports
        ):
            refused[binding] = view.finding(
                statement,
                "rollout",
                "FlashCore is the fall-back where BlackwellSparseK can't be imported",
                "fall back to torch: `attention_forward = "
                "torch.nn.functional.scaled_dot_product_attention` (guide, Issue 3)",
            )
            continue
        name = binding.target.rpartition(".")[2]
        if binding.target in {BENCHMARK, VALIDATE} and any(
            name in names
            and _body_of(view, node) is _body_of(view, statement)
            and not _exclusive(view, node, statement)
            for node, names in new_imports
        ):
            refused[binding] = view.finding(
                statement,
                "rollout",
                f"both libraries' {name} are used here, side by side",
                "finish comparing (it needs both libraries), then delete this code",
            )
    return refused


def plan_flags(view: View, plan: Plan, kernels: list[Kernel], held: set[Binding]) -> None:
    """`if FLAG: new code, else: old code` becomes the new code, where both end up the same."""
    moved = [
        statement
        for binding in view.bindings
        if binding not in held
        for statement, _ in binding.statements
    ]
    moved_calls = [forward for kernel in kernels for forward in kernel.forwards]
    for node in view.nodes:
        if not isinstance(node, cst.If) or not isinstance(node.orelse, cst.Else):
            continue
        parent = view.parent(node)
        if isinstance(parent, cst.If) and parent.orelse is node:
            continue
        if not (_is_pure_test(view, node.test) and _mentions_new(view, node)):
            continue
        if any(view.inside(old, node) for old in (*moved, *moved_calls)):
            plan.edit(node, _collapse, "rollout")
            plan.report(
                [
                    view.finding(
                        node,
                        "rollout",
                        f"the flag `{view.code(node.test)}` chose between the two libraries",
                        "remove the flag where it is set, unless something else reads it",
                        blocking=False,
                    )
                ]
            )


def _collapse(node: cst.CSTNode) -> cst.CSTNode | cst.FlattenSentinel[cst.BaseStatement]:
    assert isinstance(node, cst.If) and isinstance(node.orelse, cst.Else)
    body, other = node.body, node.orelse.body
    if not (isinstance(body, cst.IndentedBlock) and isinstance(other, cst.IndentedBlock)):
        return node
    if _meaning(body) != _meaning(other) or any(line.comment for line in body.footer):
        return node
    first, *rest = body.body
    lines = [*node.leading_lines, *getattr(first, "leading_lines", ())]
    return cst.FlattenSentinel([first.with_changes(leading_lines=lines), *rest])


def _meaning(block: cst.IndentedBlock) -> str:
    """The block without comments, blank lines and the imports of the new library."""
    body: list[Any] = list(block.body)
    code = textwrap.dedent(cst.Module(body).code)
    tree = ast.parse(code)
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == NEW)
        and not isinstance(node, ast.Pass)
    ]
    return ast.dump(tree)


def _is_pure_test(view: View, node: cst.BaseExpression) -> bool:
    if is_pure(node):
        return True
    if isinstance(node, cst.Call):
        known = view.qualified(node.func) | {view.code(node.func)}
        return bool(known & _ENVIRONMENT_READS) and all(is_pure(arg.value) for arg in node.args)
    if isinstance(node, cst.Comparison):
        parts = [node.left, *(target.comparator for target in node.comparisons)]
        return all(_is_pure_test(view, part) for part in parts)
    if isinstance(node, cst.UnaryOperation):
        return _is_pure_test(view, node.expression)
    return False


def _mentions_new(view: View, node: cst.CSTNode) -> bool:
    return any(
        isinstance(call, cst.Call) and _is_new(view, call) and view.inside(call, node)
        for call in view.nodes
    )


def _is_new(view: View, call: cst.Call) -> bool:
    return f"{NEW}.{ATTENTION}" in view.qualified(call.func)


def _arguments(view: View, call: cst.Call) -> list[str]:
    return [view.code(arg.with_changes(comma=cst.MaybeSentinel.DEFAULT)) for arg in call.args]


def _body_of(view: View, node: cst.CSTNode) -> cst.CSTNode | None:
    return view.enclosing(node, (cst.FunctionDef, cst.Module))


def _exclusive(view: View, new: cst.CSTNode, old: cst.CSTNode) -> bool:
    """Whether at most one of the two runs: other branches of an if or try, or an early return."""
    for ancestor in view.ancestors(new):
        if isinstance(ancestor, cst.If):
            in_body = view.inside(new, ancestor.body)
            old_in_body = view.inside(old, ancestor.body)
            if view.inside(old, ancestor):
                return in_body != old_in_body
            if in_body and _jumps(ancestor.body):
                return True
        if isinstance(ancestor, cst.Try) and view.inside(old, ancestor):
            return view.inside(new, ancestor.body) != view.inside(old, ancestor.body)
    return False


def _jumps(body: cst.BaseSuite) -> bool:
    last = body.body[-1] if body.body else None
    if isinstance(last, cst.SimpleStatementLine):
        last = last.body[-1]
    return isinstance(last, _JUMPS)
