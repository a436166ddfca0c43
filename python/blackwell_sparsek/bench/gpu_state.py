"""The GPU's clock, power and temperature, by nvidia-smi."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import torch

_FIELDS = ("clocks.sm", "clocks.max.sm", "power.draw", "temperature.gpu")
_NAMES = ("sm_mhz", "max_sm_mhz", "power_w", "temperature_c")


def gpu_state(run: Callable[..., Any] = subprocess.run) -> dict[str, float] | None:
    """sm_mhz, max_sm_mhz, power_w, temperature_c of torch's current GPU; None where nvidia-smi
    does not tell."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    identity = _uuid()
    if identity is not None:
        command += ["-i", identity]
    try:
        done = run(command, capture_output=True, text=True, check=True, timeout=10)
        values = [float(part) for part in done.stdout.strip().splitlines()[0].split(",")]
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
    return dict(zip(_NAMES, values, strict=True)) if len(values) == len(_NAMES) else None


def _uuid() -> str | None:
    if not torch.cuda.is_available():
        return None
    identity = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return None if identity is None else f"GPU-{identity}"
