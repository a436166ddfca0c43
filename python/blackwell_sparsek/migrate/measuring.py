"""Validation's new return value, and benchmark calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import libcst as cst
from libcst.metadata import ClassScope

from blackwell_sparsek.migrate.analysis import BENCHMARK, Use, View
from blackwell_sparsek.migrate.plan import Edit, Finding, Plan

_BENCHMARK_OPTIONS = frozenset({"num_iters", "num_warmup"})


@dataclass(eq=False)
class Step:
    """What one use of a utility needs: edits, or the reasons why it stays."""

    use: Use
    idea: str
    edits: list[tuple[cst.CSTNode, Edit]] = field(default_factory=list)
    refusals: list[Finding] = field(default_factory=list)

    def emit(self, plan: Plan) -> None:
        for node, edit in self.edits:
            plan.edit(node, edit, self.idea)


def study(view: View, use: Use, forwards: Collection[cst.CSTNode]) -> Step:
    """The step for one use of validate_correctness or benchmark_latency.

    `forwards` are the `kernel.forward` nodes of kernels that will be migrated.
    """
    idea = "benchmark" if use.target == BENCHMARK else "validation"
    step = Step(use, idea)
    name = use.target.rpartition(".")[2]
    if not use.certain:
        step.refusals.append(
            view.finding(
                use.node,
                idea,
                f"`{view.code(use.node)}` is FlashCore's {name} or something else",
                f"give FlashCore's {name} a name of its own, then run again",
            )
        )
        return step
    call = view.parent(use.node)
    if not (isinstance(call, cst.Call) and call.func is use.node):
        change = (
            "(bool, dict) instead of a bool"
            if idea == "validation"
            else "more statistics, and forwards further arguments to the function"
        )
        step.refusals.append(
            view.finding(
                use.node,
                idea,
                f"`{name}` is used as a value",
                f"the new one returns {change}: change the places that call it, and the import",
            )
        )
    elif idea == "validation":
        _study_validation(view, step, call)
    else:
        _study_benchmark(view, step, call, forwards)
    return step


def _study_validation(view: View, step: Step, call: cst.Call) -> None:
    parent = view.parent(call)
    if isinstance(parent, cst.Expr) or (isinstance(parent, cst.Subscript) and parent.value is call):
        return
    if isinstance(parent, cst.Assign) and len(parent.targets) == 1:
        target = parent.targets[0].target
        if isinstance(target, cst.Tuple | cst.List):
            return
        metrics = _metrics_name(view, target)
        if metrics is not None:
            step.edits.append((parent, _unpack(metrics)))
            return
    step.edits.append((call, _first_item))


def _metrics_name(view: View, target: cst.BaseExpression) -> str | None:
    """A free name for the metrics beside a plain variable; None where there is none."""
    if not isinstance(target, cst.Name) or isinstance(view.scope_of(target), ClassScope):
        return None
    for name in ("metrics", f"{target.value}_metrics"):
        if name not in view.words:
            return name
    return None


def _unpack(metrics: str) -> Edit:
    def edit(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Assign)
        name = node.targets[0].target
        pair = cst.Tuple(
            [cst.Element(name), cst.Element(cst.Name(metrics))],
            lpar=(),
            rpar=(),
        )
        return node.with_changes(targets=[node.targets[0].with_changes(target=pair)])

    return edit


def _first_item(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.Call)
    return cst.Subscript(
        node.with_changes(lpar=(), rpar=()),
        [cst.SubscriptElement(cst.Index(cst.Integer("0")))],
        lpar=node.lpar,
        rpar=node.rpar,
    )


def _study_benchmark(
    view: View, step: Step, call: cst.Call, forwards: Collection[cst.CSTNode]
) -> None:
    first, rest = (call.args[0], call.args[1:]) if call.args else (None, ())
    fine = (
        first is not None
        and not first.star
        and (first.keyword is None or first.keyword.value == "fn")
        and all(arg.keyword is not None and arg.keyword.value in _BENCHMARK_OPTIONS for arg in rest)
    )
    if not fine:
        step.refusals.append(
            view.finding(
                call,
                "benchmark",
                f"`{view.code(call.func)}` is called with more than a function and num_iters=",
                "the new one forwards other arguments to the function: "
                "benchmark_latency(fn, *args, num_warmup=10, num_iters=100, method='auto')",
            )
        )
        return
    assert first is not None
    if first.keyword is None and _is_plain_lambda(view, first.value, forwards):
        step.edits.append((call, _inline_lambda))


def _is_plain_lambda(
    view: View, node: cst.BaseExpression, forwards: Collection[cst.CSTNode]
) -> bool:
    """`lambda: kernel.forward(Q, K, V)` whose arguments mean the same when evaluated once."""
    if not isinstance(node, cst.Lambda) or not isinstance(node.body, cst.Call):
        return False
    parameters = node.params
    if parameters.params or parameters.kwonly_params or parameters.posonly_params:
        return False
    if isinstance(parameters.star_arg, cst.Param) or parameters.star_kwarg is not None:
        return False
    body = node.body
    return (
        any(body.func is forward for forward in forwards)
        and "#" not in view.code(body)
        and all(_is_plain(arg.value) for arg in body.args)
    )


def _is_plain(node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.Attribute):
        return _is_plain(node.value)
    if isinstance(node, cst.Subscript):
        return _is_plain(node.value) and all(
            isinstance(item.slice, cst.Index) and _is_plain(item.slice.value) for item in node.slice
        )
    return isinstance(node, cst.Name | cst.SimpleString | cst.Integer)


def _inline_lambda(node: cst.CSTNode) -> cst.CSTNode:
    """benchmark_latency(lambda: f(Q, K, V), ...) -> benchmark_latency(f, Q, K, V, ...)."""
    assert isinstance(node, cst.Call)
    first = node.args[0]
    assert isinstance(first.value, cst.Lambda) and isinstance(first.value.body, cst.Call)
    body = first.value.body
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    spread: Sequence[cst.Arg] = [
        cst.Arg(body.func),
        *(arg.with_changes(whitespace_after_arg=cst.SimpleWhitespace("")) for arg in body.args),
    ]
    spread = [arg.with_changes(comma=comma) for arg in spread[:-1]] + [
        spread[-1].with_changes(comma=first.comma, whitespace_after_arg=first.whitespace_after_arg)
    ]
    return node.with_changes(args=[*spread, *node.args[1:]])
