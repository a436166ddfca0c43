"""Checks a built wheel: what is inside, what it needs from the system, its licences, its size.

python scripts/check_wheel.py --max-mb 40 dist/blackwell_sparsek-*.whl
"""

from __future__ import annotations

import argparse
import email
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

# Everything the binary may ask the system for. libgomp is torch's: docs/releasing.md, "OpenMP".
ALLOWED_LIBRARIES = {
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libgomp.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
}
REQUIRED_FILES = (
    r"blackwell_sparsek/__init__\.py",
    r"blackwell_sparsek/py\.typed",
    r"blackwell_sparsek/_C\.abi3\.so",
    r"blackwell_sparsek-[^/]+\.dist-info/licenses/LICENSE",
    r"blackwell_sparsek-[^/]+\.dist-info/licenses/LICENSES/LLVM-exception\.txt",
    r"blackwell_sparsek-[^/]+\.dist-info/licenses/THIRD_PARTY\.md",
    r"blackwell_sparsek-[^/]+\.dist-info/sboms/blackwell_sparsek\.cdx\.json",
    r"blackwell_sparsek/kernels/source\.digest",
    r"blackwell_sparsek/kernels/source/src/cuda/.*\.cuh",
    r"blackwell_sparsek/kernels/cubins/.*\.bskcubin",
)
# What the bill of materials must name; cutlass and libcu++ are the headers of kernels/source.
COMPONENTS = {"dlpack", "cutlass", "libcu++"}
ALLOWED_FILES = (
    r"blackwell_sparsek/.*\.(py|pyi|typed|so)",
    r"blackwell_sparsek/kernels/.*",  # sources and machine code: scripts/pack_kernel_sources.py
    r"blackwell_sparsek-[^/]+\.dist-info/.*",
)


def problems_of(wheel: Path, max_mb: float) -> list[str]:
    """What is wrong with the wheel, as sentences; prints what it found on the way."""
    problems = []
    size_mb = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {size_mb:.2f} MB (at most {max_mb:g})")
    if size_mb > max_mb:
        problems.append(f"size: {size_mb:.2f} MB; at most {max_mb:g} MB are allowed.")
    if not re.search(r"-cp310-abi3-manylinux_", wheel.name):
        problems.append(f"name: must be tagged cp310-abi3-manylinux_*; got {wheel.name}.")

    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        for pattern in REQUIRED_FILES:
            if not any(re.fullmatch(pattern, name) for name in names):
                problems.append(f"contents: nothing matches {pattern}.")
        for name in names:
            if not any(re.fullmatch(pattern, name) for pattern in ALLOWED_FILES):
                problems.append(f"contents: {name} does not belong in the wheel.")
        for name in (n for n in names if n.endswith(".cdx.json")):
            problems += problems_of_sbom(name, archive.read(name).decode())
        cubins = [archive.getinfo(n) for n in names if n.endswith(".bskcubin")]
        print(f"kernels: {len(cubins)} cubins, {sum(c.file_size for c in cubins) / 1e6:.2f} MB")
        (metadata_name,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(metadata_name))
        print(f"licence: {metadata['License-Expression']}, {metadata.get_all('License-File')}")
        for name in (n for n in names if n.endswith(".so")):
            needed = needed_libraries(archive.read(name))
            print(f"{name}: {archive.getinfo(name).file_size / 1e6:.2f} MB, needs {sorted(needed)}")
            for library in sorted(needed - ALLOWED_LIBRARIES):
                problems.append(f"{name}: needs {library}, which not every machine has.")
    return problems


def problems_of_sbom(name: str, text: str) -> list[str]:
    """What is wrong with a bill of materials, as sentences."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        return [f"{name}: is not CycloneDX 1.6: {error}."]
    parts = json.loads(text)["components"]
    for part in parts:
        print(f"inside: {part['name']} {part['version']}, {part['licenses'][0]['expression']}")
    missing = COMPONENTS - {part["name"] for part in parts}
    return [f"{name}: does not name {part}." for part in sorted(missing)]


def needed_libraries(binary: bytes) -> set[str]:
    """The DT_NEEDED entries of a shared object."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(binary)
        file.flush()
        listing = subprocess.run(
            ["readelf", "--dynamic", "--wide", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", listing))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--max-mb", type=float, default=40.0)
    arguments = parser.parse_args()
    problems = problems_of(arguments.wheel, arguments.max_mb)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
