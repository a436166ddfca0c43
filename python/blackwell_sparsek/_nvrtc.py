"""Where PyPI's packages put NVRTC, CUDA's runtime compiler. Also run by the build, as a script."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# nvidia-cuda-nvrtc (13) and nvidia-cuda-nvrtc-cu12, as torch's CUDA builds depend on them.
_PLACES = ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12")


def nvrtc_libraries() -> list[str]:
    """Full paths of the installed NVRTC libraries, the newest first. Opens none of them."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    paths = [Path(folder, place) for place in _PLACES for folder in folders]
    return [str(path) for path in paths if path.is_file()]


if __name__ == "__main__":
    print("\n".join(nvrtc_libraries()))
