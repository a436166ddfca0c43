"""Tells the CUDA engine where this installation's files are. Opens neither driver nor compiler."""

from __future__ import annotations

from pathlib import Path

import torch

from blackwell_sparsek import _C
from blackwell_sparsek._nvrtc import nvrtc_libraries


def set_places(driver_library: str = "") -> None:
    """Kernel sources and cubins beside the native core, NVRTC as pip installed it.

    Args:
        driver_library: path of libcuda; '' = libcuda.so.1 by the loader's rules.

    Raises:
        ValueError: another `driver_library` after the driver was first used.
    """
    kernels = Path(_C.__file__).resolve().parent / "kernels"
    _C.set_engine_places(
        str(kernels) if kernels.is_dir() else "",
        nvrtc_libraries(torch.version.cuda),
        driver_library,
    )


set_places()
