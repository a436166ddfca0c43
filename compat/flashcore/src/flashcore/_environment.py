"""CUDA_ARCH and DEBUG, FlashCore's two settings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_SUPPORTED = {"90": "90a", "90a": "90a", "100": "100a", "100a": "100a"}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True)
class Settings:
    """What the environment asks for; None where it says nothing."""

    cuda_arch: str | None = None  # as written, e.g. '89'
    debug: bool | None = None

    @property
    def kernel_arch(self) -> str | None:
        """The architecture as BlackwellSparseK spells it; None where it has no kernels for it."""
        return _SUPPORTED.get(self.cuda_arch or "")

    @property
    def is_unsupported(self) -> bool:
        return self.cuda_arch is not None and self.kernel_arch is None


def read() -> Settings:
    """The settings in the environment now.

    Raises ValueError, naming the variable, its value and the allowed ones.
    """
    arch = os.environ.get("CUDA_ARCH", "") or None
    if arch is not None and not re.fullmatch(r"[1-9]\d{1,2}a?", arch):
        raise ValueError(
            "CUDA_ARCH: must be a compute capability without its dot, such as '89', '90a' or "
            f"'100a'; got {arch!r}. Unset it to use what the GPU is."
        )
    text = os.environ.get("DEBUG")
    if text is None:
        return Settings(arch)
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(f"DEBUG: must be '0' or '1'; got {text!r}. Unset it, or use one of them.")
    return Settings(arch, text.lower() in _TRUE)
