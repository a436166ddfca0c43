"""Writes the bill of materials of a build: a CycloneDX 1.6 file that names what others wrote.

python scripts/write_sbom.py --out blackwell_sparsek.cdx.json [--kernels]

Run by the build; the wheel carries the file as PEP 770 has it, in `*.dist-info/sboms/`. The same
build gives the same bytes. THIRD_PARTY.md says the same in words.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from check_version import PROJECT, version_of


def component(name: str, package: str, licence: str, url: str, description: str) -> dict[str, Any]:
    """Something of another project that is inside; `package` of PyPI is where it came from."""
    purl = f"pkg:pypi/{package}@{version(package)}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version(package),
        "description": description,
        "licenses": [{"expression": licence}],
        "purl": purl,
        "externalReferences": [{"type": "vcs", "url": url}],
    }


def bill_of_materials(with_kernels: bool) -> dict[str, Any]:
    """The file's contents; `with_kernels`: the build packs the GPU kernels' sources."""
    inside = [
        component(
            "dlpack",
            "apache-tvm-ffi",
            "Apache-2.0",
            "https://github.com/dmlc/dlpack",
            "The header dlpack.h, as apache-tvm-ffi carries it, compiled into the binary",
        )
    ]
    if with_kernels:
        inside += [
            component(
                "cutlass",
                "nvidia-cutlass",
                "BSD-3-Clause",
                "https://github.com/NVIDIA/cutlass",
                "Headers that the GPU kernels include, unchanged",
            ),
            component(
                "libcu++",
                "nvidia-cuda-cccl-cu12",
                "Apache-2.0 WITH LLVM-exception",
                "https://github.com/NVIDIA/cccl",
                "Headers that the GPU kernels include, unchanged",
            ),
        ]
    package = f"pkg:pypi/blackwell-sparsek@{version_of(PROJECT)}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": package,
                "name": "blackwell-sparsek",
                "version": version_of(PROJECT),
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "purl": package,
            }
        },
        "components": inside,
        "dependencies": [{"ref": package, "dependsOn": [part["bom-ref"] for part in inside]}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kernels", action="store_true")
    arguments = parser.parse_args()
    text = json.dumps(bill_of_materials(arguments.kernels), indent=1)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
