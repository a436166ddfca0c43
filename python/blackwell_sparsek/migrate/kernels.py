"""The build step: what `build_baseline()` returns, where it is kept, and every use of it.

A kernel is migrated as a whole or not at all: its build statements go only if each of its uses
is `<kernel>.forward`, which becomes `attention_forward`.
"""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst
from libcst.metadata import ClassScope, GlobalScope

from blackwell_sparsek.migrate.analysis import BUILD, Use, View
from blackwell_sparsek.migrate.holder import Kernel, refuse, settle_none
from blackwell_sparsek.migrate.shapes import (
    is_field,
    is_none,
    is_pure,
    none_test_of,
    owner_class,
    related_classes,
    statement_of_target,
)

_ACCESSORS = frozenset({"getattr", "hasattr", "setattr", "delattr", "attrgetter", "object"})


def find_kernels(view: View, exported: frozenset[str], opaque: frozenset[str]) -> list[Kernel]:
    """Every kernel of the module.

    `exported`: names that other files read (`name`), and attributes (`.name`); `opaque`: words in
    a notebook's magics, which can't be rewritten.
    """
    kernels: dict[object, Kernel] = {}
    for binding in view.bindings:
        for use in binding.uses:
            if use.target == BUILD:
                _place(view, use, kernels)
    for kernel in kernels.values():
        if kernel.scope is not None:
            _study_variable(view, kernel)
        elif kernel.group:
            _study_attribute(view, kernel)
        for forward in kernel.forwards:
            _check_forward(view, kernel, forward)
        shared = (f".{kernel.name}" if kernel.group else kernel.name) in exported and (
            kernel.scope is None or isinstance(kernel.scope, GlobalScope)
        )
        if kernel.name and (shared or kernel.name in opaque):
            where = (
                "other code (or listed in __all__)"
                if shared
                else "a string of code or a notebook magic"
            )
            refuse(
                view,
                kernel,
                kernel.builds[0].node,
                f"kernel `{kernel.label}` is also used by {where}",
                "migrate that use by hand to `attention_forward(Q, K, V)`, then run again",
            )
    return list(kernels.values())


def _place(view: View, use: Use, kernels: dict[object, Kernel]) -> None:
    """Attach one `build_baseline` use to the kernel that it builds."""
    call = view.parent(use.node)
    if not (isinstance(call, cst.Call) and call.func is use.node):
        if none_test_of(view, use.node) is None or not use.binding.others:
            kernel = kernels.setdefault(use, Kernel("build_baseline", [use]))
            refuse(
                view,
                kernel,
                use.node,
                "`build_baseline` is used as a value",
                "there is no build step any more: pass or store `attention_forward` itself",
            )
        return
    parent = view.parent(call)
    if isinstance(parent, cst.Attribute) and parent.attr.value == "forward":
        kernel = kernels.setdefault(use, Kernel("build_baseline()"))
        kernel.forwards.append(parent)
    else:
        kernel = _holder(view, use, call, parent, kernels)
    kernel.builds.append(use)
    if not _plain_build(call):
        refuse(
            view,
            kernel,
            call,
            f"`{view.code(call)}` takes more than a plain `verbose`",
            "remove the build by hand; BlackwellSparseK needs none, and reports what it does "
            "through `bsk doctor` and get_build_info()",
        )


def _holder(
    view: View,
    use: Use,
    call: cst.Call,
    parent: cst.CSTNode | None,
    kernels: dict[object, Kernel],
) -> Kernel:
    target: cst.BaseExpression | None = None
    if isinstance(parent, cst.Assign) and len(parent.targets) == 1:
        target = parent.targets[0].target
    elif isinstance(parent, cst.AnnAssign):
        target = parent.target
    if isinstance(target, cst.Name):
        scope = next(
            a.scope
            for a in view.assignments(view.scope_of(target), target.value)
            if a.node is target
        )
        if isinstance(scope, ClassScope):
            class_ = view.enclosing(target, cst.ClassDef)
            assert isinstance(class_, cst.ClassDef)
            return _attribute(view, class_, target.value, kernels)
        key = (id(scope), target.value)
        return kernels.setdefault(key, Kernel(target.value, scope=scope, name=target.value))
    if isinstance(target, cst.Attribute) and isinstance(target.value, cst.Name):
        owner = owner_class(view, target.value)
        if owner is not None:
            return _attribute(view, owner, target.attr.value, kernels)
    kernel = kernels.setdefault(use, Kernel("build_baseline()"))
    what, remedy = _escape(view, call, parent)
    refuse(view, kernel, call, what, remedy)
    return kernel


def _attribute(
    view: View, class_: cst.ClassDef, name: str, kernels: dict[object, Kernel]
) -> Kernel:
    group = related_classes(view, class_)
    return kernels.setdefault((group, name), Kernel(f"self.{name}", group=group, name=name))


def _escape(view: View, node: cst.CSTNode, parent: cst.CSTNode | None) -> tuple[str, str]:
    """What happens to a kernel that leaves our sight, and what to do instead."""
    text = view.code(node)
    if isinstance(parent, cst.Return | cst.Yield | cst.Lambda):
        return (
            f"`{text}` is returned to callers",
            "return `attention_forward` and drop `.forward` where the result is called",
        )
    if isinstance(parent, cst.Arg):
        call = view.parent(parent)
        name = view.code(call.func) if isinstance(call, cst.Call) else "a call"
        return (
            f"`{text}` is passed to `{name}`",
            f"pass `attention_forward` and call it there without `.forward` (in `{name}`)",
        )
    if isinstance(parent, cst.Assign) and len(parent.targets) > 1:
        return (
            f"`{text}` is assigned to several names at once",
            "write one assignment per kernel, then run again",
        )
    if isinstance(parent, cst.Attribute):
        return (
            f"`{text}.{parent.attr.value}` is not in the migration guide",
            "only `.forward(Q, K, V)` has a counterpart: attention_forward(Q, K, V)",
        )
    return (
        f"`{text}` is kept or used in a way that this tool can't follow",
        "store nothing: call `attention_forward(Q, K, V)` where the kernel was used",
    )


def _study_variable(view: View, kernel: Kernel) -> None:
    assert kernel.scope is not None
    assignments = [
        a for a in view.assignments(kernel.scope, kernel.name) if a.scope is kernel.scope
    ]
    for assignment in assignments:
        _classify_store(view, kernel, assignment.node)
    ours = {id(a) for a in assignments}
    for load in view.loads(kernel.name):
        scope = view.scopes[load]
        assert scope is not None
        if any(id(a) in ours for a in view.assignments(scope, kernel.name)):
            _classify_load(view, kernel, load)
    for node in view.nodes:
        if isinstance(node, cst.Global | cst.Nonlocal) and any(
            item.name.value == kernel.name for item in node.names
        ):
            scope = view.scope_of(node)
            if any(id(a) in ours for a in view.assignments(scope, kernel.name)):
                kernel.declarations.append(node)
    settle_none(view, kernel)


def _study_attribute(view: View, kernel: Kernel) -> None:
    for node in view.nodes:
        if isinstance(node, cst.Attribute) and node.attr.value == kernel.name:
            if not isinstance(node.value, cst.Name):
                belongs: bool | None = None
            elif (owner := owner_class(view, node.value)) is not None:
                belongs = owner.name.value in kernel.group
            else:
                belongs = True if node.value.value in kernel.group else None
            if belongs is None:
                refuse(
                    view,
                    kernel,
                    node,
                    f"`{view.code(node)}` may be the kernel `{kernel.label}`",
                    f"if it is, call `attention_forward` there and remove `{kernel.label}`",
                )
            elif belongs and _is_stored(view, node):
                _classify_store(view, kernel, node)
            elif belongs:
                _classify_load(view, kernel, node)
        elif isinstance(node, cst.Call):
            _check_reflection(view, kernel, node)
    for class_ in view.nodes:
        if isinstance(class_, cst.ClassDef) and class_.name.value in kernel.group:
            _study_class_body(view, kernel, class_)
    settle_none(view, kernel)


def _study_class_body(view: View, kernel: Kernel, class_: cst.ClassDef) -> None:
    for name in view.names:
        scope = view.scopes[name]
        if (
            name.value == kernel.name
            and isinstance(scope, ClassScope)
            and view.enclosing(name, cst.ClassDef) is class_
        ):
            if name in (load for load in view.loads(kernel.name)):
                _classify_load(view, kernel, name)
            else:
                _classify_store(view, kernel, name)


def _check_reflection(view: View, kernel: Kernel, call: cst.Call) -> None:
    func = call.func
    name = func.value if isinstance(func, cst.Name) else ""
    name = func.attr.value if isinstance(func, cst.Attribute) else name
    if name not in _ACCESSORS:
        return
    for index, arg in enumerate(call.args):
        literal = isinstance(arg.value, cst.SimpleString)
        named = literal and getattr(arg.value, "evaluated_value", None) == kernel.name
        base = call.args[0].value
        owner = owner_class(view, base) if isinstance(base, cst.Name) else None
        dynamic = (
            index == 1
            and not literal
            and name in {"getattr", "delattr"}
            and owner is not None
            and owner.name.value in kernel.group
        )
        if named or dynamic:
            refuse(
                view,
                kernel,
                call,
                f"`{view.code(call)}` may reach the kernel `{kernel.label}` by its name",
                "write the access out, or remove the kernel by hand",
            )


def _is_stored(view: View, node: cst.Attribute) -> bool:
    context = view.contexts.get(node)
    return context is not None and context.name == "STORE"


def _classify_store(view: View, kernel: Kernel, node: cst.CSTNode) -> None:
    statement = statement_of_target(view, node)
    if statement is not None and is_field(view, statement):
        refuse(
            view,
            kernel,
            node,
            f"`{kernel.label}` may be a field of a generated constructor",
            "remove the field by hand, with the arguments that set it",
        )
        return
    if statement is not None:
        builds = [view.parent(use.node) for use in kernel.builds]
        if any(statement.value is build for build in builds):
            kernel.doomed.append(statement)
            return
        if statement.value is None or is_none(statement.value):
            kernel.placeholders.append(statement)
            return
    refuse(
        view,
        kernel,
        node,
        f"`{kernel.label}` also holds something else than a FlashCore kernel",
        "give the kernel a name of its own, then run again",
    )


def _classify_load(view: View, kernel: Kernel, node: cst.BaseExpression) -> None:
    parent = view.parent(node)
    if isinstance(parent, cst.Attribute) and parent.value is node:
        if parent.attr.value == "forward" and not _is_stored(view, parent):
            kernel.forwards.append(parent)
            return
    elif none_test_of(view, node) is not None:
        kernel.tests.append(node)
        return
    what, remedy = _escape(view, node, parent)
    refuse(view, kernel, node, what, remedy)


def _plain_build(call: cst.Call) -> bool:
    if len(call.args) > 1:
        return False
    return all(
        not arg.star
        and (arg.keyword is None or arg.keyword.value == "verbose")
        and is_pure(arg.value)
        for arg in call.args
    )


def _check_forward(view: View, kernel: Kernel, forward: cst.Attribute) -> None:
    call = view.parent(forward)
    if not (isinstance(call, cst.Call) and call.func is forward):
        return
    positional = [arg for arg in call.args if arg.keyword is None]
    keywords: Iterable[str] = [arg.keyword.value for arg in call.args if arg.keyword is not None]
    if (
        len(positional) > 3
        or any(arg.star == "**" for arg in call.args)
        or any(name not in {"Q", "K", "V"} for name in keywords)
    ):
        refuse(
            view,
            kernel,
            call,
            f"`{view.code(call)}` passes more than the Q, K, V that the guide knows",
            "rewrite the call by hand: attention_forward(Q, K, V, scale=None, *, is_causal=False, "
            "attn_mask=None, ...)",
        )
