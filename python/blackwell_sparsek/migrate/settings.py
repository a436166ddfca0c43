"""Configuration by environment: CUDA_ARCH and DEBUG become BSK_CUDA_ARCH and BSK_DEBUG."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from blackwell_sparsek.migrate.analysis import NEW, View
from blackwell_sparsek.migrate.plan import Edit, Plan
from blackwell_sparsek.migrate.shapes import string_value

_KEYS = {"CUDA_ARCH": "BSK_CUDA_ARCH", "DEBUG": "BSK_DEBUG"}
_ARCHS = {"90": "90a", "90a": "90a", "100": "100a", "100a": "100a"}
_FLAGS = {"0": "0", "1": "1"}
THREE_OPTIONS = (
    "BlackwellSparseK needs sm_90a (H100) or sm_100 (B200). The guide's options: A) move to an "
    "H100 or B200 and delete this line (the architecture is detected); B) stay on FlashCore's API "
    "through the compatibility package; C) use torch's scaled_dot_product_attention "
    "(BSK_FALLBACK=sdpa)"
)


@dataclass(eq=False)
class _Write:
    """One place that sets a variable: the key's literal, the value, and the whole expression."""

    name: str
    key: cst.SimpleString
    value: cst.BaseExpression
    node: cst.CSTNode
    new_value: str = ""

    def line_of(self, view: View) -> tuple[cst.CSTNode, ...]:
        """The small statements on the write's line."""
        line = view.parent(self.node)
        return tuple(line.body) if isinstance(line, cst.SimpleStatementLine) else ()

    def as_option(self) -> str:
        if self.name == "CUDA_ARCH":
            return f"cuda_arch={self.new_value!r}"
        return f"debug_mode={self.new_value == '1'}"


def plan_settings(
    view: View, plan: Plan, uses_flashcore: bool, uses_new: bool, as_object: bool
) -> None:
    """Rename what is set for FlashCore (`as_object`: make it a Config); list what can't be."""
    writes: list[_Write] = []
    strays: list[tuple[str, cst.CSTNode]] = []
    for node in view.nodes:
        name = string_value(node)
        if name not in _KEYS or not isinstance(node, cst.SimpleString):
            continue
        write = _write_of(view, name, node)
        if write is not None:
            writes.append(write)
        elif _touches_environment(view, node) or (name == "CUDA_ARCH" and _is_argument(view, node)):
            strays.append((name, node))
    if not uses_flashcore:
        _list_leftovers(view, plan, writes, uses_new)
        return
    read = {name for name, _ in strays}
    for name, node in strays:
        if name == "CUDA_ARCH" or any(write.name == name for write in writes):
            plan.report(
                [
                    view.finding(
                        node,
                        "config",
                        f"{name} is read or set here in a way that this tool can't follow",
                        f"if it is meant for FlashCore, use {_KEYS[name]} or "
                        "blackwell_sparsek.core.Config here and where it is set",
                        blocking=any(write.name == name for write in writes),
                    )
                ]
            )
    accepted = [w for w in writes if w.name not in read and _check_write(view, plan, w)]
    if as_object and _plan_object(view, plan, accepted):
        return
    for write in accepted:
        plan.edit(write.key, _swap(_KEYS[write.name]), "config")
        if write.new_value != string_value(write.value):
            plan.edit(write.value, _swap(write.new_value), "config")


def _plan_object(view: View, plan: Plan, writes: list[_Write]) -> bool:
    """One `set_default_config(Config(...))` for writes on adjacent lines.

    A second Config would take the first one's options back, so anything else stays environment.
    """
    if not writes:
        return False
    lines = [view.parent(write.node) for write in writes]
    block = view.parent(lines[0]) if lines[0] is not None else None
    body = getattr(block, "body", ())
    places = [i for i, statement in enumerate(body) if any(statement is line for line in lines)]
    plain = all(isinstance(w.node, cst.Assign) and len(w.line_of(view)) == 1 for w in writes)
    adjacent = len(places) == len(writes) and places == list(
        range(places[0], places[0] + len(places))
    )
    if not (plain and adjacent):
        return False
    options = ", ".join(write.as_option() for write in writes)
    call = cst.parse_expression(f"set_default_config(Config({options}))")
    plan.edit(writes[0].node, lambda _: cst.Expr(call), "config")
    for write in writes[1:]:
        plan.remove(write.node, "config")
    plan.module_imports |= {(f"{NEW}.core", "Config"), (f"{NEW}.core", "set_default_config")}
    return True


def _check_write(view: View, plan: Plan, write: _Write) -> bool:
    """Whether a write's value has a counterpart; if not, it is listed."""
    allowed = _ARCHS if write.name == "CUDA_ARCH" else _FLAGS
    value = string_value(write.value)
    if value not in allowed:
        shown = view.code(write.value)
        old_arch = write.name == "CUDA_ARCH" and value is not None and value.isdigit()
        plan.report(
            [
                view.finding(
                    write.node,
                    "config",
                    f"{write.name} = {shown} has no counterpart",
                    THREE_OPTIONS
                    if old_arch
                    else f"set {_KEYS[write.name]} by hand to one of "
                    f"{', '.join(sorted(set(allowed.values())))}",
                )
            ]
        )
        return False
    write.new_value = allowed[value]
    return True


def _list_leftovers(view: View, plan: Plan, writes: list[_Write], uses_new: bool) -> None:
    """In a file without FlashCore: an architecture that was set for it may be left over."""
    for write in writes:
        if write.name == "CUDA_ARCH":
            stuck = uses_new and string_value(write.value) not in _ARCHS
            plan.report(
                [
                    view.finding(
                        write.node,
                        "config",
                        f"CUDA_ARCH = {view.code(write.value)} is set, and no FlashCore is used "
                        "in this file",
                        THREE_OPTIONS
                        if stuck
                        else "if it was set for FlashCore, rename it to BSK_CUDA_ARCH",
                        blocking=stuck,
                    )
                ]
            )


def _swap(text: str) -> Edit:
    """Replace a string literal's contents, keeping its quotes."""

    def edit(node: cst.CSTNode) -> cst.CSTNode:
        if isinstance(node, cst.SimpleString):
            return node.with_changes(value=f"{node.quote}{text}{node.quote}")
        return cst.SimpleString(repr(text))

    return edit


def _write_of(view: View, name: str, key: cst.SimpleString) -> _Write | None:
    """The write to os.environ in which the literal `key` is the variable's name."""
    parent = view.parent(key)
    if isinstance(parent, cst.Index):
        subscript = view.enclosing(parent, cst.Subscript)
        if not isinstance(subscript, cst.Subscript) or not _is_environ(view, subscript.value):
            return None
        target = view.parent(subscript)
        assign = view.parent(target) if isinstance(target, cst.AssignTarget) else None
        if isinstance(assign, cst.Assign) and len(assign.targets) == 1:
            return _Write(name, key, assign.value, assign)
        return None
    if isinstance(parent, cst.Arg):
        call = view.parent(parent)
        if (
            isinstance(call, cst.Call)
            and isinstance(call.func, cst.Attribute)
            and call.func.attr.value == "setdefault"
            and _is_environ(view, call.func.value)
            and len(call.args) == 2
            and call.args[0] is parent
            and isinstance(view.parent(call), cst.Expr)
        ):
            return _Write(name, key, call.args[1].value, call)
    return None


def _is_environ(view: View, node: cst.BaseExpression) -> bool:
    return bool(view.qualified(node) & {"os.environ"}) or view.code(node) == "os.environ"


def _touches_environment(view: View, key: cst.SimpleString) -> bool:
    """Whether the literal is a key of os.environ in any other way (get, del, in, getenv, ...)."""
    for node in view.ancestors(key):
        if isinstance(node, cst.Subscript) and _is_environ(view, node.value):
            return True
        if isinstance(node, cst.Call):
            func = node.func
            if view.qualified(func) & {"os.getenv", "os.putenv", "os.unsetenv"}:
                return True
            if isinstance(func, cst.Attribute) and _is_environ(view, func.value):
                return True
        if isinstance(node, cst.Comparison) and any(
            _is_environ(view, target.comparator) for target in node.comparisons
        ):
            return True
        if isinstance(node, cst.BaseSmallStatement):
            return False
    return False


def _is_argument(view: View, node: cst.CSTNode) -> bool:
    return isinstance(view.parent(node), cst.Arg | cst.DictElement)
