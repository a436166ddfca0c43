"""`bsk migrate` on the guide's own blocks: before -> what the guide's "after" means."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import guide
import pytest
import torch

from blackwell_sparsek.core import Config, get_default_config, set_default_config
from blackwell_sparsek.migrate import migrate_paths, migrate_source

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAIRS = guide.pairs()
NEW_NAMES = "from blackwell_sparsek import attention_forward\n"
OLD_NAMES = "from flashcore import build_baseline\n"


def _without_imports(code: str) -> str:
    tree = ast.parse(code)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.dump(tree)


def _imports(code: str) -> set[str]:
    nodes = ast.parse(code).body
    return {ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)}


def _pair(section: str) -> tuple[str, str]:
    (found,) = [pair for pair in PAIRS if pair[0].section.startswith(section)]
    return found[0].code, found[1].code


def test_the_guide_has_its_pairs() -> None:
    sections = [old.section.split(":")[0] for old, _ in PAIRS]
    assert sections == [
        "Imports",
        "Build & Forward",
        "Configuration",
        "Example 1",
        "Example 2",
        "Example 3",
        "Issue 3",
    ]


@pytest.mark.parametrize(
    "section", ["Imports", "Build & Forward", "Example 1", "Example 2", "Example 3"]
)
def test_before_becomes_after(section: str) -> None:
    """The same statements; imports at least the guide's (a block alone may need one more)."""
    before, after = _pair(section)
    result = migrate_source(before)
    assert not result.findings
    assert _without_imports(result.source) == _without_imports(after)
    assert _imports(after) <= _imports(result.source)
    assert _imports(result.source) - _imports(after) <= {NEW_NAMES.strip()}


@pytest.mark.parametrize(
    "section", ["Build & Forward", "Example 1", "Example 2", "Example 3", "Issue 3"]
)
def test_before_migrated_and_after_compute_the_same(section: str, qkv: dict[str, Any]) -> None:
    before, after = (guide.on_this_machine(code, False) for code in _pair(section))
    migrated = migrate_source(before).source
    outcomes = []
    for code, prelude in ((before, OLD_NAMES), (migrated, ""), (after, NEW_NAMES)):
        torch.manual_seed(3)
        names = {**qkv, "torch": torch}
        exec(prelude + code, names)
        if section == "Issue 3":
            attend = names.get("attention_forward") or names["build_baseline"]().forward
            names["output"] = attend(names["Q"], names["K"], names["V"])
        outcomes.append(names)
    old, ours, wanted = outcomes
    if "output" in old:
        assert torch.equal(old["output"], ours["output"])
        assert torch.equal(ours["output"], wanted["output"])
    if section == "Example 2":
        assert all(names["stats"]["median_us"] > 0 for names in outcomes)
        assert all(names["stats"]["num_iters"] == 100 for names in outcomes)
    if section == "Example 3":
        assert old["is_correct"] is True and ours["is_correct"] is True
        assert ours["metrics"].keys() == wanted["metrics"].keys()


def test_configuration_is_the_guides_but_for_the_l4(qkv: dict[str, Any]) -> None:
    before, after = _pair("Configuration")
    result = migrate_source(before, config_object=True)
    (finding,) = result.findings
    assert (finding.line, finding.idea) == (2, "config")
    # On the architecture that the guide's own "after" names, both forms do what it does.
    before = before.replace("'89'", "'90'")
    environment = migrate_source(before).source
    for code in (environment, migrate_source(before, config_object=True).source, after):
        for name in ("BSK_CUDA_ARCH", "BSK_DEBUG"):
            os.environ.pop(name, None)
        os.environ["BSK_DEBUG"] = "1"  # what must be overridden
        set_default_config(Config())
        exec(code, {})
        if code is environment:
            set_default_config(Config())  # in a new process the first call reads the environment
        config = get_default_config()
        assert (config.cuda_arch, config.debug_mode) == ("90a", False)


def test_the_rollout_ends_in_the_new_branch(qkv: dict[str, Any]) -> None:
    (block,) = [b for b in guide.blocks() if b.section.startswith("Step 4")]
    result = migrate_source(block.code)
    assert "flashcore" not in result.source
    assert [finding.blocking for finding in result.findings] == [False]
    names = {**qkv}
    exec(result.source, names)
    assert torch.equal(names["output"], names["attention_forward"](*qkv.values()))


@pytest.mark.parametrize("section", ["Step 2", "Step 3"])
def test_comparisons_are_left_alone(section: str) -> None:
    (block,) = [b for b in guide.blocks() if b.section.startswith(section)]
    result = migrate_source(block.code)
    assert result.source == block.code
    assert any(finding.blocking for finding in result.findings)


def test_all_before_blocks_as_one_file(tmp_path: Path) -> None:
    """What a user has who followed the old documentation into one module."""
    code = "".join(old.code for old, _ in PAIRS if old.section != "Configuration")
    path = tmp_path / "mine.py"
    path.write_text(code, "utf-8")
    (report,) = migrate_paths([path], write=True)
    assert report.problem is None and not report.left
    text = path.read_text("utf-8")
    assert "flashcore" not in text and "build_baseline" not in text and ".forward(" not in text
