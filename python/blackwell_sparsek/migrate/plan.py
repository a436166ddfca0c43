"""What is to be done to one module: edits keyed by syntax node, and what is left for the hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import libcst as cst

Edit = Callable[[cst.CSTNode], "cst.CSTNode | cst.FlattenSentinel[Any]"]

IDEAS = ("imports", "build", "config", "validation", "benchmark", "rollout")


@dataclass(frozen=True, order=True)
class Finding:
    """One place that the tool leaves alone, and what a person does about it.

    `line` and `column` count from 1. `cell` counts a notebook's cells from 1 (0: not a notebook);
    the line is then the line in that cell. `blocking` is False for mere hints.
    """

    line: int
    column: int
    idea: str
    what: str
    remedy: str
    blocking: bool = True
    cell: int = 0


@dataclass
class Plan:
    """Edits of one module. Nodes are those of the analysed tree (identity, not equality)."""

    edits: dict[cst.CSTNode, list[Edit]] = field(default_factory=dict)
    removed: set[cst.CSTNode] = field(default_factory=set)
    module_imports: set[tuple[str, str]] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)

    def edit(self, node: cst.CSTNode, edit: Edit, idea: str) -> None:
        """Apply `edit` to `node` once its children have been rewritten."""
        self.edits.setdefault(node, []).append(edit)
        self.changes[idea] += 1

    def replace(self, node: cst.CSTNode, code: str, idea: str) -> None:
        """Put the expression `code` where the expression `node` stands, inside its parentheses."""

        def build(old: cst.CSTNode) -> cst.CSTNode:
            new = cst.parse_expression(code)
            return new.with_changes(lpar=getattr(old, "lpar", ()), rpar=getattr(old, "rpar", ()))

        self.edit(node, build, idea)

    def remove(self, node: cst.CSTNode, idea: str) -> None:
        """Remove a statement; its comments stay where it stood."""
        if node not in self.removed:
            self.removed.add(node)
            self.changes[idea] += 1

    def touches(self) -> bool:
        return bool(self.edits or self.removed or self.module_imports)

    def report(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if finding not in self.findings:
                self.findings.append(finding)
