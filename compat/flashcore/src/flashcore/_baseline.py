"""`build_baseline()` and the object that it returns."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings

import torch
from torch import Tensor

from flashcore import _environment

try:
    import blackwell_sparsek
    from blackwell_sparsek import core
except ModuleNotFoundError as _error:
    if _error.name != "blackwell_sparsek":
        raise
    blackwell_sparsek = None  # type: ignore[assignment]

_said: set[str] = set()


class FallbackWarning(UserWarning):
    """Attention was computed by torch's SDPA instead of by BlackwellSparseK."""


class Baseline:
    """What FlashCore called a built kernel. Nothing is built: `forward` computes."""

    def __init__(self, settings: _environment.Settings) -> None:
        self.settings = settings

    def forward(self, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        """Attention, `softmax(Q K^T / sqrt(head_dim)) V`.

        Q: `[batch, q_heads, q_len, head_dim]`; K and V: `[batch, kv_heads, kv_len, head_dim]`;
        float16 or bfloat16, on the CPU also float32. Returns Q's shape and dtype.
        Raises ValueError or TypeError, from BlackwellSparseK, for shapes, dtypes and devices.
        """
        for name, tensor in (("Q", Q), ("K", K), ("V", V)):
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"{name}: must be a torch.Tensor; got {type(tensor).__name__}. "
                    "Convert it with torch.as_tensor."
                )
        reason = self._unsupported(Q)
        if reason is None:
            try:
                output: Tensor = blackwell_sparsek.attention_forward(Q, K, V)
            except blackwell_sparsek.UnsupportedError as error:
                reason = str(error)
            else:
                self._log(Q, K, "blackwell_sparsek")
                return output
        self._log(Q, K, "torch's scaled_dot_product_attention")
        _say_once(reason)
        return torch.nn.functional.scaled_dot_product_attention(
            Q, K, V, enable_gqa=Q.shape[1] != K.shape[1]
        )

    def describe(self) -> str:
        """Where `forward` computes, in one sentence."""
        if blackwell_sparsek is None:
            return f"flashcore: nothing to build; computing by torch's SDPA: {_NOT_INSTALLED}"
        text = f"flashcore: nothing to build; computing by blackwell_sparsek {core.__version__}"
        if self.settings.is_unsupported:
            text += f", on GPUs by torch's SDPA (CUDA_ARCH={self.settings.cuda_arch})"
        return text

    def _unsupported(self, Q: Tensor) -> str | None:
        """Why BlackwellSparseK need not be asked; None if it should be."""
        if blackwell_sparsek is None:
            return _NOT_INSTALLED
        if Q.device.type == "cuda" and self.settings.is_unsupported:
            return (
                f"Unsupported architecture: sm_{self.settings.cuda_arch}, as CUDA_ARCH asks. "
                "Unset CUDA_ARCH to use what the GPU is."
            )
        return None

    def _log(self, Q: Tensor, K: Tensor, where: str) -> None:
        if self.settings.debug:
            print(
                f"flashcore: forward Q {list(Q.shape)} K {list(K.shape)} {Q.dtype} on {Q.device} "
                f"by {where}",
                file=sys.stderr,
            )


def build_baseline(verbose: bool = False) -> Baseline:
    """The attention "kernel". Takes no time: BlackwellSparseK brings its kernels along.

    verbose: print where attention will be computed.
    Reads CUDA_ARCH and DEBUG from the environment, and puts them in force for BlackwellSparseK
    in this process. Raises ValueError for a value that is not allowed.
    """
    settings = _environment.read()
    if blackwell_sparsek is not None:
        _put_in_force(settings)
    kernel = Baseline(settings)
    if verbose:
        print(kernel.describe())
    return kernel


def _put_in_force(settings: _environment.Settings) -> None:
    wanted: dict[str, object] = {}
    if settings.kernel_arch is not None:
        wanted["cuda_arch"] = settings.kernel_arch
    if settings.debug is not None:
        wanted["debug_mode"] = settings.debug
    config = core.get_default_config()
    if any(getattr(config, name) != value for name, value in wanted.items()):
        core.set_default_config(dataclasses.replace(config, **wanted))  # type: ignore[arg-type]


_NOT_INSTALLED = "BlackwellSparseK is not installed (pip install blackwell-sparsek)."


def _say_once(reason: str) -> None:
    """A visible warning, once for each kind of reason (its first line without the numbers)."""
    key = re.sub(r"\d+", "#", reason.splitlines()[0])
    if key not in _said:
        _said.add(key)
        warnings.warn(
            f"flashcore computes by torch's scaled_dot_product_attention: {reason}",
            FallbackWarning,
            stacklevel=3,
        )
