"""Packs what compiling the GPU kernels needs into one folder that depends on nothing else.

A user's machine has neither CUTLASS nor CUDA's C++ library (libcu++), so their headers that the
kernels reach travel with them. Every `#include` is followed, whatever the `#if` around it says:
which branch is taken is for the compiler on the user's machine to decide, and its version is not
known here. libcu++ is that of CUDA 12.9: NVRTC 12.4 to 13.5 compile it, while 12.x does not compile
that of CUDA 13.

CUDA's own headers (cuda_fp16.h and the like) do not travel: NVIDIA's licence keeps most of them
from it (THIRD_PARTY.md). The kernels need none; what CUTLASS and libcu++ include of them is on
branches for other compilers, or has a stand-in in src/cuda/stand_ins.

    OUT/source/         the kernels (src/cuda/...) and every header they may include; to be given to
                        the compiler as two include folders, source/ and source/cccl/
    OUT/source.digest   SHA-256 over all of it: the machine code made from it is keyed by this
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*(?:<([^>\n]+)>|"([^"\n]+)")', re.MULTILINE)
# CUTLASS names CUDA's C++ library by a macro; any other computed include is an error below.
COMPUTED_INCLUDE = re.compile(rb"^[ \t]*#[ \t]*include[ \t]+([^<\"\s].*)$", re.MULTILINE)
CUDA_STD_HEADER = re.compile(rb"CUDA_STD_HEADER\((\w+)\)")

# The marks of the licences that let a header travel, of which each header must carry one.
FREE_LICENCE = re.compile(
    rb"SPDX-License-Identifier: (BSD-3-Clause|Apache-2\.0)\b"
    rb"|under the Apache License v2\.0 with LLVM Exceptions"
)


def kernel_files(root: Path) -> list[Path]:
    """The device code of the repository; what else the kernels need, they include."""
    return sorted((root / "src/cuda").rglob("*.cuh"))


MISSING_REMEDY = (
    "Install what the GPU kernels are built from: pip install --no-deps nvidia-cutlass "
    "nvidia-cuda-cccl-cu12 (versions: pyproject.toml)"
)


def included(path: Path, text: bytes) -> list[str]:
    names = [(a or b).decode() for a, b in INCLUDE.findall(text)]
    for computed in COMPUTED_INCLUDE.findall(text):
        header = CUDA_STD_HEADER.match(computed)
        if header is None:
            raise SystemExit(f"{path}: cannot follow `#include {computed.decode().strip()}`.")
        names.append(f"cuda/std/{header.group(1).decode()}")
    return names


def closure(roots: list[Path], include_dirs: list[Path]) -> dict[str, bytes]:
    """File contents by the name under which an include directory offers them."""
    found: dict[str, bytes] = {}
    pending = list(roots)
    while pending:
        path = pending.pop()
        directory = max(
            (d for d in include_dirs if path.is_relative_to(d)), key=lambda d: len(d.parts)
        )
        # CUTLASS looks for CUDA's C++ library in a folder cccl/ of CUDA's headers or beside them,
        # depending on the compiler; as cccl/ is an include folder too, it is found either way.
        prefix = "cccl/" if (directory / "cuda/std").is_dir() else ""
        name = prefix + path.relative_to(directory).as_posix()
        if name in found:
            continue
        found[name] = text = path.read_bytes()
        for header in included(path, text):
            for folder in [path.parent, *include_dirs]:
                candidate = Path(os.path.normpath(folder / header))
                if candidate.is_file():
                    pending.append(candidate)
                    break
            else:
                # The standard library's or CUDA's, on a branch for other compilers. The kernels'
                # own files have no such branches, but for what the host includes of them.
                if path in roots and "." in header:
                    raise SystemExit(f"{path}: nothing offers `{header}`. {MISSING_REMEDY}")
    return found


def package_dir(module: str, *below: str) -> list[Path]:
    """The existing folders `below` of an installed package, which may lie in several places."""
    spec = importlib.util.find_spec(module)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return [p for place in places for b in below if (p := Path(place, b)).is_dir()]


def default_include_dirs() -> list[Path]:
    return [
        *package_dir("cutlass_library", "source/include"),
        *package_dir("nvidia", "cuda_cccl/include"),
    ]


def write_if_changed(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pack(root: Path, include_dirs: list[Path], out: Path) -> dict[str, bytes]:
    files = closure(kernel_files(root), [root, PROJECT / "src/cuda/stand_ins", *include_dirs])
    for name, content in files.items():
        if not name.startswith("src/") and FREE_LICENCE.search(content) is None:
            raise SystemExit(f"{name} carries no licence that lets it be distributed.")
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name]
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
        write_if_changed(out / "source" / name, content)
    for stale in sorted((out / "source").rglob("*")):
        if stale.is_file() and stale.relative_to(out / "source").as_posix() not in files:
            stale.unlink()
    write_if_changed(out / "source.digest", (digest.hexdigest() + "\n").encode())
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=PROJECT)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--include-dir", type=Path, action="append", help="default: PyPI's packages"
    )
    parser.add_argument(
        "--check", action="store_true", help="only say whether the headers are there, by the status"
    )
    arguments = parser.parse_args()
    include_dirs = arguments.include_dir or default_include_dirs()
    for needed in ("cutlass/cutlass.h", "cuda/std/cstdint"):
        if not any((d / needed).is_file() for d in include_dirs):
            places = ", ".join(map(str, include_dirs)) or "any installed package"
            print(f"{needed} is not in {places}. {MISSING_REMEDY}", file=sys.stderr)
            return 1
    if arguments.check:
        return 0
    if arguments.out is None:
        parser.error("--out is needed")
    resolved = [Path(os.path.normpath(d.absolute())) for d in include_dirs]
    files = pack(arguments.root.absolute(), resolved, arguments.out)
    size = sum(len(content) for content in files.values())
    print(f"{len(files)} files, {size / 1e6:.1f} MB in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
