"""Small shapes of syntax that several planners ask for."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from blackwell_sparsek.migrate.analysis import View

_PLAIN_BASES = frozenset({"object", "Module", "nn.Module", "torch.nn.Module"})
_EFFECTS = (cst.Call, cst.Await, cst.Yield, cst.NamedExpr)


@dataclass(frozen=True)
class NoneTest:
    """A test of a value against None: the whole test, and whether it holds for None."""

    node: cst.BaseExpression
    when_none: bool


def is_none(node: cst.CSTNode | None) -> bool:
    return isinstance(node, cst.Name) and node.value == "None"


def is_pure(node: cst.CSTNode) -> bool:
    """Whether evaluating the expression can have no effect worth keeping."""
    return not isinstance(node, _EFFECTS) and all(is_pure(child) for child in node.children)


def string_value(node: cst.CSTNode | None) -> str | None:
    if isinstance(node, cst.SimpleString | cst.ConcatenatedString):
        value = node.evaluated_value
        return value if isinstance(value, str) else None
    return None


def none_test_of(view: View, node: cst.BaseExpression) -> NoneTest | None:
    """The None test in which the value `node` stands, if it stands in one."""
    parent = view.parent(node)
    if isinstance(parent, cst.Comparison) and len(parent.comparisons) == 1:
        operator = parent.comparisons[0].operator
        if parent.left is node and is_none(parent.comparisons[0].comparator):
            if isinstance(operator, cst.Is | cst.Equal):
                return NoneTest(parent, True)
            if isinstance(operator, cst.IsNot | cst.NotEqual):
                return NoneTest(parent, False)
        return None
    if isinstance(parent, cst.UnaryOperation) and isinstance(parent.operator, cst.Not):
        return NoneTest(parent, True)
    if isinstance(parent, cst.If | cst.IfExp | cst.While) and parent.test is node:
        return NoneTest(node, False)
    return None


def statement_of_target(view: View, node: cst.CSTNode) -> cst.Assign | cst.AnnAssign | None:
    """The assignment of which `node` is the only target."""
    parent = view.parent(node)
    if isinstance(parent, cst.AnnAssign) and parent.target is node:
        return parent
    if isinstance(parent, cst.AssignTarget):
        statement = view.parent(parent)
        if isinstance(statement, cst.Assign) and len(statement.targets) == 1:
            return statement
    return None


def owner_class(view: View, name: cst.Name) -> cst.ClassDef | None:
    """The class whose instance (or self) `name` is: the first parameter of one of its methods."""
    scope = view.scopes.get(name)
    if scope is None:
        return None
    found = view.assignments(scope, name.value)
    if len(found) != 1 or not isinstance(found[0].node, cst.Param):
        return None
    function = view.enclosing(found[0].node, (cst.FunctionDef, cst.Lambda))
    if not isinstance(function, cst.FunctionDef):
        return None
    parameters = [*function.params.posonly_params, *function.params.params]
    if not parameters or parameters[0] is not found[0].node:
        return None
    if any(
        isinstance(decorator.decorator, cst.Name) and decorator.decorator.value == "staticmethod"
        for decorator in function.decorators
    ):
        return None
    block = view.parent(function)
    class_ = view.parent(block) if block is not None else None
    return class_ if isinstance(class_, cst.ClassDef) else None


def related_classes(view: View, class_: cst.ClassDef) -> frozenset[str]:
    """Names of the classes in the module that may share attributes with `class_` by inheritance."""
    bases = {
        node.name.value: {arg.value.value for arg in node.bases if isinstance(arg.value, cst.Name)}
        for node in view.nodes
        if isinstance(node, cst.ClassDef)
    }
    group = {class_.name.value}
    while True:
        grown = group | {
            name
            for name, parents in bases.items()
            if parents & group or any(name in bases.get(member, ()) for member in group)
        }
        if grown == group:
            return frozenset(group)
        group = grown


def is_field(view: View, statement: cst.CSTNode) -> bool:
    """Whether an annotation in a class body may make a dataclass (or the like) field."""
    if not isinstance(statement, cst.AnnAssign):
        return False
    block = view.parent(statement)
    block = view.parent(block) if block is not None else None
    class_ = view.parent(block) if block is not None else None
    if not isinstance(class_, cst.ClassDef):
        return False
    bases = {view.code(arg.value) for arg in class_.bases}
    return bool(class_.decorators) or not bases <= _PLAIN_BASES
