"""What a build says of itself: the bill of materials, the doctor's line on the GPU kernels."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from blackwell_sparsek import _C
from blackwell_sparsek.commands import doctor

ROOT = Path(__file__).resolve().parents[2]


def test_the_bill_of_materials_names_what_third_party_names(tmp_path: Path) -> None:
    needed = {"tvm_ffi": "apache-tvm-ffi", "cutlass_library": "nvidia-cutlass"}
    for module, package in needed.items():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"a build requirement is not installed: pip install --no-deps {package}")
    out = tmp_path / "sbom.json"
    command = [sys.executable, str(ROOT / "scripts/write_sbom.py"), "--out", str(out)]
    subprocess.run([*command, "--kernels"], check=True)
    parts = {part["name"]: part for part in json.loads(out.read_text())["components"]}
    assert set(parts) == {"dlpack", "cutlass", "libcu++"}
    words = (ROOT / "THIRD_PARTY.md").read_text()
    for part in parts.values():
        assert part["licenses"][0]["expression"] in words
        assert part["externalReferences"][0]["url"] in words
        assert part["version"] in part["purl"]
    subprocess.run(command, check=True)  # a build without the GPU kernels
    assert [part["name"] for part in json.loads(out.read_text())["components"]] == ["dlpack"]


def test_the_doctor_tells_what_a_build_has_of_the_gpu_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_C, "__file__", str(tmp_path / "_C.abi3.so"))
    (finding,) = doctor._packed_kernels()
    assert finding.state == "warning" and "left out" in finding.text
    assert "BSK_PACK_KERNELS=ON" in finding.remedy
    cubins = tmp_path / "kernels/cubins"
    cubins.mkdir(parents=True)
    (tmp_path / "kernels/source.digest").touch()
    (finding,) = doctor._packed_kernels()
    documented = len(_C.documented_kernels())
    assert finding.state == "ok" and f"0 of {documented} documented" in finding.text
    assert "compiled at their first call" in finding.text
