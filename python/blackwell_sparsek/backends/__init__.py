"""Entries for frameworks. Nothing here is imported, and no global is touched, before you ask:

| name | framework | extra |
|---|---|---|
| `register_sdpa` | PyTorch's scaled_dot_product_attention and varlen_attn | none |
| `register_transformers` | Hugging Face transformers | `blackwell-sparsek[transformers]` |
| `SparseKFwOp`, `SparseKBwOp`, `BlockSparseBias` | xFormers | `blackwell-sparsek[xformers]` |
| `SparseKAttention` | an nn.Module in xFormers' layout; needs only torch | none |
| `register_diffusers` | Hugging Face diffusers | `blackwell-sparsek[diffusers]` |
| `SparseKBackend`, `register_vllm_backend` | vLLM: do not exist yet, and say so | |
| `vllm_omni_attention` | vLLM-Omni's sparse-attention callable | none |
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "BlockSparseBias": "xformers",
    "SparseKAttention": "module",
    "SparseKBackend": "vllm",
    "SparseKBwOp": "xformers",
    "SparseKFwOp": "xformers",
    "register_diffusers": "diffusers",
    "register_sdpa": "sdpa",
    "register_transformers": "transformers",
    "register_vllm_backend": "vllm",
    "vllm_omni_attention": "vllm",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def require_framework(module: str, extra: str) -> Any:
    """The imported framework.

    Raises:
        ImportError: it is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} could not be imported ({error}). "
            f"Install it with: pip install blackwell-sparsek[{extra}]"
        ) from error
