"""Writes docs/api_reference.md from the signatures and docstrings: python scripts/generate_api_reference.py

A test holds the page equal to what this prints.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "api_reference.md"

MODULES = (
    "blackwell_sparsek",
    "blackwell_sparsek.attention",
    "blackwell_sparsek.core",
    "blackwell_sparsek.utils",
    "blackwell_sparsek.backends",
    "blackwell_sparsek.flash_attn",
)

HEADER = """# API reference

Generated from the docstrings by `scripts/generate_api_reference.py`; a test holds the two equal. The C++ interface is
documented in its headers, `include/bsk/attention.h`, `block_mask.h` and `error.h`; `examples/cpp` uses it.
"""


def signature(name: str, item: object) -> str:
    try:
        text = str(inspect.signature(item))  # type: ignore[arg-type]
        return name + re.sub(r"<function (\w+) at 0x\w+>", r"\1", text)
    except (TypeError, ValueError):
        return name


def members(item: type) -> list[str]:
    """Public names of a class, its own and those inherited from this package's classes."""
    homes = [base for base in item.__mro__ if base.__module__.startswith("blackwell_sparsek")]
    return sorted({name for home in homes for name in vars(home) if not name.startswith("_")})


def entry(name: str, item: object, level: str, seen: set[int]) -> list[str]:
    seen.add(id(item))
    lines = [f"{level} `{name}`", ""]
    if callable(item) and not (inspect.isclass(item) and issubclass(item, Exception)):
        lines += ["```text", signature(name.rsplit(".", 1)[-1], item), "```", ""]
    lines += ["```text", inspect.getdoc(item) or "", "```", ""]
    if inspect.isclass(item) and not issubclass(item, Exception):
        for member in members(item):
            value = inspect.getattr_static(item, member)
            method = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if id(method) in seen or not (
                inspect.isfunction(method) or isinstance(value, property)
            ):
                continue
            target = value if isinstance(value, property) else getattr(item, member)
            lines += entry(f"{name}.{member}", target, level + "#", seen)
    return lines


def page() -> str:
    lines = [HEADER]
    seen: set[int] = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        lines += [f"## {module_name}", "", (inspect.getdoc(module) or "").split("\n\n")[0], ""]
        for name in sorted(module.__all__):
            item = getattr(module, name)
            if name.startswith("__") or id(item) in seen:
                continue
            lines += entry(name, item, "###", seen)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
