"""The native core (bindings/module.cc)."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

class UnsupportedError(RuntimeError): ...

def attention_forward(*arguments: Any) -> Any: ...
def attention_forward_eager(*arguments: Any) -> Any: ...
def attention_forward_prepared(*arguments: Any) -> Any: ...
def answer_calls(
    attention_forward: Callable[..., Any],
    prepared_call: Callable[..., Any],
    compiler_callback: Callable[[], object],
    /,
) -> bool: ...
def set_gate(
    types: tuple[type, ...],
    flags: tuple[Callable[[], object], ...],
    forward_ad: ModuleType,
    autocast: Callable[[], bool],
    grad_enabled: Callable[[], bool],
    requires_grad: object,
    is_negated: Callable[[], bool],
    increment_version: Callable[[tuple[Any, ...]], None],
    /,
) -> None: ...
def plan(*arguments: Any) -> tuple[str, str]: ...
def resolve_options(explicit: dict[str, str], /) -> list[tuple[str, str, str, str]]: ...
def set_settings(explicit: dict[str, str], /) -> None: ...
def options_in_force() -> list[tuple[str, str, str, str]]: ...
def kernels() -> list[tuple[str, str, bool]]: ...
def kernel_reasons(
    arguments: tuple[Any, ...], device: tuple[str, str, int, int, int], /
) -> dict[str, list[str]]: ...
def set_sources(
    threads: Callable[[], int],
    device: Callable[[int], tuple[str, int, int, int]],
    stream: Callable[[int], int],
    /,
) -> None: ...
def set_engine_places(
    kernel_dir: str, nvrtc_libraries: list[str], driver_library: str, /
) -> None: ...
def engine_status() -> dict[str, tuple[bool, str, Any, Any]]: ...
def documented_kernels() -> list[tuple[str, str, str, str, str]]: ...
def compile_kernel(
    name: str, source: str, entry: str, config: str, architecture: str, /
) -> tuple[str, float, int, str]: ...
def prepare_block_mask(
    lists: tuple[Any, ...], q_len: int | None, kv_len: int | None, kv_blocks: int, /
) -> object: ...
def build_block_mask(
    kind: str,
    shape: tuple[int, int, int, int],
    block_size: tuple[int, int],
    lengths: tuple[int, int],
    widths: tuple[int, int],
    inputs: tuple[Any, ...],
    numbers: tuple[float, ...],
    device: int,
    out: tuple[Any, Any] | None,
    /,
) -> Any: ...
def pooled_scores(
    Q: Any,
    K: Any,
    block_q: int,
    block_k: int,
    maximum: bool,
    scale: float,
    per_kv_head: bool,
    causal_offset: int | None,
    /,
) -> Any: ...
def kernel_cache_stats() -> tuple[str, int, int, int]: ...
def kernel_cache_clear() -> int: ...
def set_programmatic_dependent_launch(enabled: bool, /) -> None: ...
