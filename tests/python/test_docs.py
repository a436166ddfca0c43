"""The docs are true: every Python snippet runs, every public name is described, every link leads somewhere."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Its snippets call the old library: tests/python/migrate runs them.
PAGES_WITH_RUNNING_SNIPPETS = [page for page in PAGES if page.name != "migration_from_flashcore.md"]


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize(
    "page", [p for p in PAGES_WITH_RUNNING_SNIPPETS if snippets(p)], ids=lambda page: page.name
)
def test_snippets_run(page: Path) -> None:
    """A page's snippets run from the first to the last, in one namespace."""
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for snippet in snippets(page):
        exec(compile(snippet, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["api_reference", "support_matrix"])
def test_a_generated_page_is_current(name: str) -> None:
    """Of the docstrings, and of the kernels' own reasons."""
    script = ROOT / f"scripts/generate_{name}.py"
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / f"docs/{name}.md").read_text() == module.page(), (
        f"docs/{name}.md is out of date: python scripts/generate_{name}.py"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_package_exist(page: Path) -> None:
    for name in set(re.findall(r"\bblackwell_sparsek(?:\.[A-Za-z]\w*)+", page.read_text())):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            pytest.fail(f"{page.name}: {name}: {error}")


def test_the_reference_has_inherited_methods() -> None:
    page = (ROOT / "docs/api_reference.md").read_text()
    for name in ("from_dense", "sliding_window", "top_k", "pooled_scores", "update_"):
        assert f"#### `BlockMask.{name}`" in page


def test_every_public_function_has_a_full_docstring() -> None:
    import inspect

    import blackwell_sparsek
    from blackwell_sparsek import BlockMask, core, utils

    public = [
        blackwell_sparsek.attention_forward,
        *(getattr(utils, name) for name in utils.__all__),
    ]
    public += [getattr(core, n) for n in core.__all__ if not n.startswith("__")]
    public += [m for n, m in inspect.getmembers(BlockMask) if not n.startswith("_") and callable(m)]
    for item in public:
        assert len(inspect.getdoc(item) or "") > 40, item
