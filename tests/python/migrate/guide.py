"""The migration guide as data: its Python blocks, in order, each with its section and side."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "migration_from_flashcore.md"


@dataclass(frozen=True)
class Block:
    """One ```python block. `side`: 'old' (FlashCore), 'new' (BlackwellSparseK) or 'both'."""

    section: str
    side: str
    code: str
    line: int

    @property
    def id(self) -> str:
        return f"line{self.line}-{self.side}-{self.section.split(':')[0].replace(' ', '_')}"


def blocks() -> list[Block]:
    """Every Python block of the guide, from its first line to its last."""
    found: list[Block] = []
    section, label, code, start = "", "", None, 0
    for number, line in enumerate(GUIDE.read_text("utf-8").splitlines(), 1):
        if code is not None:
            if line == "```":
                found.append(Block(section, _side(label, code), "\n".join(code) + "\n", start))
                code, label = None, ""
            else:
                code.append(line)
        elif line == "```python":
            code, start = [], number
        elif re.match(r"#{2,3} ", line):
            section, label = line.lstrip("# "), ""
        elif line.startswith("**"):
            label = line
    return found


def _side(label: str, code: list[str]) -> str:
    text = "\n".join(code)
    if label.startswith(("**Before", "**FlashCore")):
        return "old"
    return "both" if "flashcore" in text else "new"


def pairs() -> list[tuple[Block, Block]]:
    """(before, after) blocks of the sections that have one of each."""
    found = blocks()
    result = []
    for old, new in itertools.pairwise(found):
        if old.side == "old" and new.side == "new" and old.section == new.section:
            result.append((old, new))
    return result


def items() -> list[str]:
    """The checklist items, in order."""
    return re.findall(r"^- \[ \] (.*)$", GUIDE.read_text("utf-8"), flags=re.MULTILINE)


def on_this_machine(code: str, has_gpu: bool) -> str:
    """The guide's own sentence: on a machine without a GPU write device='cpu'."""
    return code if has_gpu else code.replace("device='cuda'", "device='cpu'")
