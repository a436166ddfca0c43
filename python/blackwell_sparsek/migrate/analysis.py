"""What FlashCore is in a module: the names bound to it, and every place that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst
from libcst.helpers import get_full_name_for_node
from libcst.metadata import (
    Assignment,
    ClassScope,
    ExpressionContextProvider,
    GlobalScope,
    ImportAssignment,
    MetadataWrapper,
    ParentNodeProvider,
    PositionProvider,
    QualifiedNameProvider,
    Scope,
    ScopeProvider,
)

from blackwell_sparsek.migrate.plan import Finding

OLD = "flashcore"
NEW = "blackwell_sparsek"
BUILD = "flashcore.build_baseline"
VALIDATE = "flashcore.utils.validate_correctness"
BENCHMARK = "flashcore.utils.benchmark_latency"
MODULES = frozenset({OLD, f"{OLD}.utils"})
FUNCTIONS = frozenset({BUILD, VALIDATE, BENCHMARK})

Import = cst.Import | cst.ImportFrom


@dataclass(eq=False)
class Use:
    """A load of a FlashCore name: `node` is the widest dotted chain that the guide knows."""

    node: cst.BaseExpression
    target: str  # the dotted FlashCore path, e.g. flashcore.utils.benchmark_latency
    binding: Binding
    scope: Scope
    certain: bool  # False where the name may also hold something else

    @property
    def known(self) -> bool:
        return self.certain and self.target in FUNCTIONS


@dataclass(eq=False)
class Binding:
    """A local name bound to FlashCore by one or several import statements of one scope."""

    local: str
    target: str
    scope: Scope
    statements: list[tuple[Import, cst.ImportAlias]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    others: list[cst.CSTNode] = field(default_factory=list)  # what else is assigned to the name

    @property
    def is_module(self) -> bool:
        return self.target in MODULES


class View:
    """A parsed module with the metadata that the planners need."""

    def __init__(self, source: str) -> None:
        self.wrapper = MetadataWrapper(cst.parse_module(source))
        self.module = self.wrapper.module
        self.parents = self.wrapper.resolve(ParentNodeProvider)
        self.scopes = self.wrapper.resolve(ScopeProvider)
        self.contexts = self.wrapper.resolve(ExpressionContextProvider)
        self.positions = self.wrapper.resolve(PositionProvider)
        self._qualified = self.wrapper.resolve(QualifiedNameProvider)
        self.nodes: list[cst.CSTNode] = list(_walk(self.module))
        self.names: list[cst.Name] = [
            node
            for node in self.nodes
            if isinstance(node, cst.Name) and self.scopes.get(node) is not None
        ]
        self.words = {node.value for node in self.nodes if isinstance(node, cst.Name)}
        self.bindings, self.strange_imports = self._bind()
        self._collect_uses()

    # Positions and kinship ---------------------------------------------------------------------

    def finding(
        self, node: cst.CSTNode, idea: str, what: str, remedy: str, blocking: bool = True
    ) -> Finding:
        start = self.positions[node].start
        return Finding(start.line, start.column + 1, idea, what, remedy, blocking)

    def code(self, node: cst.CSTNode) -> str:
        return self.module.code_for_node(node)

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        return self.parents.get(node)

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        current = self.parents.get(node)
        while current is not None:
            yield current
            current = self.parents.get(current)

    def enclosing(
        self, node: cst.CSTNode, kind: type[cst.CSTNode] | tuple[type[cst.CSTNode], ...]
    ) -> cst.CSTNode | None:
        return next((a for a in self.ancestors(node) if isinstance(a, kind)), None)

    def inside(self, node: cst.CSTNode, outer: cst.CSTNode) -> bool:
        return node is outer or any(a is outer for a in self.ancestors(node))

    def scope_of(self, node: cst.CSTNode) -> Scope:
        """The scope in which `node` is evaluated."""
        for candidate in (node, *self.ancestors(node)):
            scope = self.scopes.get(candidate)
            if scope is not None:
                return scope
        raise LookupError("a node outside every scope")

    def qualified(self, node: cst.CSTNode) -> frozenset[str]:
        """The dotted names that an expression may stand for, imports resolved."""
        names = self._qualified.get(node, ())
        if callable(names):
            names = names()
        return frozenset(found.name for found in names)

    def is_visible(self, owner: Scope, user: Scope) -> bool:
        """Whether a name bound in scope `owner` can be read from scope `user`."""
        if owner is user or isinstance(owner, GlobalScope):
            return True
        if isinstance(owner, ClassScope):
            return False
        scope = user
        while scope.parent is not scope:
            if scope is owner:
                return True
            scope = scope.parent
        return False

    def assignments(self, scope: Scope, name: str) -> list[Assignment]:
        return [a for a in scope[name] if isinstance(a, Assignment)]

    def loads(self, name: str) -> Iterator[cst.Name]:
        """Every Name node of that spelling which reads or deletes a variable."""
        for node in self.names:
            if node.value == name and not self._is_store(node):
                yield node

    def _is_store(self, node: cst.Name) -> bool:
        context = self.contexts.get(node)
        return context is None or context.name == "STORE"

    # Bindings ----------------------------------------------------------------------------------

    def _bind(self) -> tuple[list[Binding], list[Finding]]:
        found: dict[tuple[int, str, str], Binding] = {}
        strange: list[Finding] = []
        for node in self.nodes:
            if not isinstance(node, cst.Import | cst.ImportFrom):
                continue
            if isinstance(node, cst.ImportFrom) and node.relative:
                module = get_full_name_for_node(node.module) if node.module else ""
                if (module or "").split(".")[0] == OLD:
                    strange.append(
                        self.finding(
                            node,
                            "imports",
                            "imports a copy of FlashCore kept inside this package",
                            "import it as the installed package `flashcore`, run again, and "
                            "delete the copy",
                        )
                    )
                continue
            for alias, local, target in _import_targets(node):
                if target.split(".")[0] != OLD:
                    continue
                if alias is None:
                    strange.append(
                        self.finding(
                            node,
                            "imports",
                            f"`{self.code(node)}` hides which names are used",
                            "write the names out (`from flashcore import build_baseline`), "
                            "then run again",
                        )
                    )
                elif target not in MODULES | FUNCTIONS:
                    strange.append(
                        self.finding(
                            node,
                            "imports",
                            f"`{target}` has no counterpart in the migration guide",
                            "replace it by hand; the guide maps build_baseline, "
                            "utils.validate_correctness and utils.benchmark_latency",
                        )
                    )
                else:
                    scope = self.scope_of(node)
                    key = (id(scope), local, target)
                    binding = found.setdefault(key, Binding(local, target, scope))
                    binding.statements.append((node, alias))
        free = self._bind_free_name() if not strange else None
        return [*found.values(), *([free] if free else [])], strange

    def _bind_free_name(self) -> Binding | None:
        """`build_baseline` that nothing binds (a snippet, a cell run elsewhere) is FlashCore's."""
        name = BUILD.rpartition(".")[2]
        loads = [n for n in self.names if n.value == name and not self._is_store(n)]
        if not loads or any(self.scopes[load][name] for load in loads):  # type: ignore[index]
            return None
        scope = self.scope_of(loads[0]).globals
        return Binding(name, BUILD, scope)

    def _collect_uses(self) -> None:
        by_statement = {
            (id(statement), binding.local): binding
            for binding in self.bindings
            for statement, _ in binding.statements
        }
        for binding in self.bindings:
            for assignment in binding.scope[binding.local]:
                if isinstance(assignment, Assignment) and assignment.scope is binding.scope:
                    imported = isinstance(assignment, ImportAssignment)
                    if not imported or (id(assignment.node), binding.local) not in by_statement:
                        binding.others.append(assignment.node)
        locals_ = {binding.local for binding in self.bindings}
        for name in self.names:
            if name.value not in locals_ or self._is_store(name):
                continue
            scope = self.scopes[name]
            assert scope is not None
            owners: list[Binding] = [
                b for b in self.bindings if not b.statements and b.local == name.value
            ]
            others = 0
            for assignment in scope[name.value]:
                node = getattr(assignment, "node", None)
                owner = by_statement.get((id(node), name.value))
                if owner is None:
                    others += 1
                elif owner not in owners:
                    owners.append(owner)
            if owners:
                node, target = self._widest(name, owners[0].target)
                certain = not others and len(owners) == 1
                owners[0].uses.append(Use(node, target, owners[0], scope, certain))

    def _widest(self, name: cst.Name, target: str) -> tuple[cst.BaseExpression, str]:
        """Follow `name.attribute...` while the guide knows the path."""
        node: cst.BaseExpression = name
        while target not in FUNCTIONS:
            parent = self.parents[node]
            if not (isinstance(parent, cst.Attribute) and parent.value is node):
                break
            longer = f"{target}.{parent.attr.value}"
            node, target = parent, longer
            if longer not in MODULES | FUNCTIONS:
                break
        return node, target


def _walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _import_targets(node: Import) -> Iterator[tuple[cst.ImportAlias | None, str, str]]:
    """(alias, local name, dotted target) of each name that an import binds; alias None for `*`."""
    if isinstance(node, cst.Import):
        for alias in node.names:
            dotted = get_full_name_for_node(alias.name) or ""
            if alias.asname is not None:
                yield alias, alias.evaluated_alias or "", dotted
            else:
                known = dotted if dotted not in MODULES else OLD
                yield alias, dotted.split(".")[0], known
        return
    module = (get_full_name_for_node(node.module) if node.module else "") or ""
    if isinstance(node.names, cst.ImportStar):
        yield None, "*", module
        return
    for alias in node.names:
        name = alias.evaluated_name
        yield alias, alias.evaluated_alias or name, f"{module}.{name}"
