"""Walks docs/migration_from_flashcore.md from its first line to its last, as a new user would.

Every Python block is run in order in one session, the old ones on the `flashcore` package, the new
ones on `blackwell_sparsek`; on the GPU where there is one, else on the CPU. Every command that the
page names must exist.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "migrate"))
import guide

BLOCKS = guide.blocks()
TEXT = guide.GUIDE.read_text("utf-8")
HAS_GPU = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] in (9, 10)


@pytest.fixture(scope="module")
def session() -> Any:
    """The user's session: names live on from block to block; the environment is put back after."""
    from blackwell_sparsek.core import Config, set_default_config

    before = dict(os.environ)
    torch.manual_seed(0)
    device = "cuda" if HAS_GPU else "cpu"
    shape = (1, 8, 512, 64)
    names: dict[str, Any] = {"torch": torch}
    for name in "QKV":
        names[name] = torch.randn(shape, dtype=torch.float16, device=device)
    yield names
    os.environ.clear()
    os.environ.update(before)
    set_default_config(Config())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_block_runs_from_the_first_to_the_last(
    session: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """One test, as later blocks use what earlier ones leave; a traceback names the guide's line."""
    assert len(BLOCKS) >= 20
    for block in BLOCKS:
        if block.section.startswith("Issue 2"):
            session["out1"], session["out2"] = session["flashcore_out"], session["blackwell_out"]
        code = guide.on_this_machine(block.code, HAS_GPU)
        exec(compile("\n" * block.line + code, str(guide.GUIDE), "exec"), session)
        printed = capsys.readouterr().out
        if block.section.startswith("Step 2"):
            assert printed.count("SDPA: True") == 2, printed
        if block.section.startswith(("Example 2", "Step 3")):
            assert float(re.findall(r"([\d.]+) μs", printed)[0]) > 0, block.id
        if block.section.startswith("Example 3"):
            assert session["is_correct"] is True, block.id
            assert ("metrics" in session) == (block.side == "new")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_step_4_takes_the_branch_that_the_flag_names(
    session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [b for b in BLOCKS if b.section.startswith("Step 4")]
    inputs = {name: session[name] for name in "QKV"}
    for value, expected in (("1", "attention_forward"), ("0", "build_baseline")):
        monkeypatch.setenv("USE_BLACKWELL", value)
        names: dict[str, Any] = dict(inputs)
        exec(block.code, names)
        assert expected in names
        assert names["output"].shape == inputs["Q"].shape


def test_old_blocks_are_those_of_the_specification() -> None:
    """Nothing in a 'before' block was adapted to the compatibility package."""
    old = [block for block in BLOCKS if block.side == "old"]
    assert len(old) == 7
    for block in old:
        assert "blackwell_sparsek" not in block.code
    assert sum("build_baseline" in block.code for block in old) == 7
    assert sum("kernel.forward(Q, K, V)" in block.code for block in old) == 4


def test_files_that_the_guide_names_exist() -> None:
    for link in re.findall(r"\]\((\.\.[^)#]*)\)", TEXT):
        assert (guide.GUIDE.parent / link).resolve().exists(), link
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL))
    old = commands.index("cd flashcore"), commands.index("cd BlackwellSparseK")
    ours = commands[: old[0]] + commands[old[1] :]
    scripts = re.findall(r"(scripts/\S+\.sh)", ours)
    assert scripts == ["scripts/build_containers.sh", "scripts/quick_start.sh"]
    for script in scripts:
        assert (guide.ROOT / script).is_file()
    assert "docker-compose up dev" in ours
    assert re.search(r"^  dev:$", (guide.ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert (guide.ROOT / "compat" / "flashcore" / "pyproject.toml").is_file()
    stages = set(re.findall(r" AS (\w+)$", (guide.ROOT / "docker/Dockerfile").read_text(), re.M))
    assert {"dev", "prod", "bench", "ci"} <= stages


def test_anchors_lead_to_headings() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for anchor in re.findall(r"\]\(#([^)]*)\)", TEXT):
        assert anchor in headings, anchor
