"""Where PyPI's packages put NVRTC, CUDA's runtime compiler. Also run by the build, as a script."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# nvidia-cuda-nvrtc (13) and nvidia-cuda-nvrtc-cu12, as torch's CUDA builds depend on them.
_PLACES = {"13": "cu13/lib/libnvrtc.so.13", "12": "cuda_nvrtc/lib/libnvrtc.so.12"}


def nvrtc_libraries(cuda_version: str | None = None) -> list[str]:
    """Full paths of the installed NVRTC libraries. Opens none of them.

    `cuda_version`: torch's, say "12.8"; its generation comes first, as the driver fits that one.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    preferred = (cuda_version or "").partition(".")[0]
    places = sorted(_PLACES.items(), key=lambda place: place[0] != preferred)
    paths = [Path(folder, place) for _, place in places for folder in folders]
    return [str(path) for path in paths if path.is_file()]


if __name__ == "__main__":
    print("\n".join(nvrtc_libraries()))
