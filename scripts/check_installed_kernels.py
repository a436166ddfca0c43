"""Checks that an installed package has every documented GPU kernel. Needs no GPU.

python scripts/check_installed_kernels.py embedded   as machine code, found without a compiler
python scripts/check_installed_kernels.py compiled   by the installed NVRTC, from the package's
                                                     own sources and with an empty cache
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from pathlib import Path

from blackwell_sparsek import _C, _nvrtc
from blackwell_sparsek.core import Config, set_default_config


def use_sources_alone(folder: Path) -> None:
    """Gives the engine the package's sources without the machine code that lies beside them."""
    if importlib.util.find_spec("cutlass_library") is not None:
        raise SystemExit(
            "CUTLASS is installed here: uninstall it, so that it cannot be what is used."
        )
    installed = Path(_C.__file__).resolve().parent / "kernels"
    for name in ("source", "source.digest"):
        (folder / name).symlink_to(installed / name)
    _C.set_engine_places(str(folder), _nvrtc.nvrtc_libraries(), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expected", choices=("embedded", "compiled"))
    expected = parser.parse_args().expected
    with tempfile.TemporaryDirectory() as folder:
        set_default_config(Config(build_dir=Path(folder, "cache")))
        if expected == "compiled":
            use_sources_alone(Path(folder))
        start = time.perf_counter()
        found = {kernel[0]: _C.compile_kernel(*kernel)[0] for kernel in _C.documented_kernels()}
        seconds = time.perf_counter() - start
    wrong = [name for name, origin in found.items() if origin != expected]
    for name in wrong:
        print(f"error: {name} is {found[name]}, not {expected}.", file=sys.stderr)
    right = len(found) - len(wrong)
    print(f"{right} of {len(found)} documented kernels {expected}, in {seconds:.1f} s")
    return 0 if found and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
