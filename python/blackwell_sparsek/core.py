"""Configuration and build information.

Options have one home, `src/attention/settings.cc`; this module gives them Python types. An explicit
`Config` wins over the environment (`BSK_*`), which wins over the defaults.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import threading
from typing import Any

import torch

from blackwell_sparsek import _C

__all__ = ["Config", "__version__", "get_build_info", "get_default_config", "set_default_config"]

__version__ = importlib.metadata.version("blackwell-sparsek")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the library. `None` leaves an option to the environment, then to its default.

    Attributes:
        cuda_arch: GPU architecture that `bsk compile` compiles for: `'90a'` (Hopper) or `'100a'`
            (Blackwell); default: every one. A call's kernel is always for the device that it runs
            on. `BSK_CUDA_ARCH`.
        debug_mode: before each call on the CPU, check what block lists hold (every index in range,
            ascending, in one list only) and raise; without it entries out of range are skipped.
            Kernels compiled for a GPU get device-side checks. Default False. `BSK_DEBUG`.
        enable_profiling: a named range per call in torch's profiler, line information in kernels
            compiled for a GPU. Default False. `BSK_PROFILE`.
        build_dir: directory of the kernel cache; default `~/.cache/blackwell_sparsek`.
            `BSK_BUILD_DIR`.
        fallback: what to do where no kernel takes a problem: `'error'` (default) raises
            `UnsupportedError` with all reasons, `'sdpa'` computes with torch and warns.
            `BSK_FALLBACK`.
        kernel: take this kernel and no other (a name of `get_build_info()['kernels']`); default:
            the best that takes the problem. `BSK_KERNEL`.

    Raises:
        TypeError, ValueError: naming the option, the value and the allowed ones.
    """

    cuda_arch: str | None = None
    debug_mode: bool | None = None
    enable_profiling: bool | None = None
    build_dir: str | os.PathLike[str] | None = None
    fallback: str | None = None
    kernel: str | None = None

    def __post_init__(self) -> None:
        _C.resolve_options(_as_text(self))


def _as_text(config: Config) -> dict[str, str]:
    """The options that are set, as the native side spells them."""
    text: dict[str, str] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        if field.name in ("debug_mode", "enable_profiling"):
            _require(isinstance(value, bool), field.name, "a bool", value)
            text[field.name] = "1" if value else "0"
        elif field.name == "build_dir":
            _require(isinstance(value, str | os.PathLike), field.name, "a path (str)", value)
            text[field.name] = os.fspath(value)
        else:
            _require(isinstance(value, str), field.name, "a str", value)
            text[field.name] = value
    return text


def _require(condition: bool, option: str, kind: str, value: object) -> None:
    if not condition:
        raise TypeError(
            f"Config.{option}: must be {kind} or None; got {value!r} ({type(value).__name__}). "
            f"Pass {kind}, or leave it out for the default."
        )


def set_default_config(config: Config) -> None:
    """Puts `config` in force for every later call of this process.

    `set_default_config(Config())` goes back to the environment, which is read anew.
    """
    if not isinstance(config, Config):
        raise TypeError(
            f"config: must be a Config; got {type(config).__name__}. "
            "Build one with blackwell_sparsek.core.Config(...)."
        )
    global config_in_force
    with _lock:
        _C.set_settings(_as_text(config))
        config_in_force = None


config_in_force: Config | None = None  # as `get_default_config` last made it
_lock = threading.Lock()  # held to change it: it must be what the native side has


def get_default_config() -> Config:
    """The configuration in force, every option with its effective value (`None`: chosen per call)."""
    global config_in_force
    with _lock:
        if config_in_force is None:
            values: dict[str, Any] = {}
            for name, _, value, _ in _C.options_in_force():
                if name in ("debug_mode", "enable_profiling"):
                    values[name] = value == "1"
                else:
                    values[name] = value or None
            config_in_force = Config(**values)
        return config_in_force


def get_build_info() -> dict[str, Any]:
    """Versions, device, kernels and places of this build.

    Returns:
        A dict with `version`, `torch`, `python`, `cuda_driver` and `cuda_runtime_compiler` (None
        where there is none), `device` (name), `capability` (`(major, minor)` or None),
        `compute_arch` (what kernels are compiled for: `'90a'`, or None without a GPU), `kernels`
        (names, the most wanted first), `cpu_instruction_set`, `cpu_threads`, `cache_dir`.
    """
    config = get_default_config()
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    compute_arch = config.cuda_arch
    if compute_arch is None and capability is not None:
        compute_arch = f"{capability[0]}{capability[1]}" + ("a" if capability[0] >= 9 else "")
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda_driver": _cuda_driver_version(),
        "cuda_runtime_compiler": torch.version.cuda,
        "device": torch.cuda.get_device_name()
        if capability is not None
        else platform.processor() or platform.machine(),
        "capability": capability,
        "compute_arch": compute_arch,
        "kernels": [name for name, _, _ in _C.kernels()],
        "cpu_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cpu_threads": torch.get_num_threads(),
        "cache_dir": str(config.build_dir),
    }


def _cuda_driver_version() -> str | None:
    if not torch.cuda.is_available():
        return None
    version = int(_C.engine_status()["driver"][2])
    return f"{version // 1000}.{version % 1000 // 10}"
