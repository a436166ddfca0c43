"""BlackwellSparseK: exact and block-sparse attention on CPU, Hopper and Blackwell.

from blackwell_sparsek import attention_forward
out = attention_forward(Q, K, V)  # [batch, heads, length, head_dim]
"""

import importlib

import torch  # noqa: F401  before _C, which shares the OpenMP runtime that torch's wheel brings

from blackwell_sparsek import _engine  # noqa: F401  tells the GPU side where its files are
from blackwell_sparsek._C import UnsupportedError
from blackwell_sparsek.attention import attention_forward
from blackwell_sparsek.block_mask import BlockMask
from blackwell_sparsek.core import __version__
from blackwell_sparsek.prepared import prepare

__all__ = ["BlockMask", "UnsupportedError", "__version__", "attention_forward", "prepare"]


def __getattr__(name: str) -> object:
    """`blackwell_sparsek.utils` after a plain `import blackwell_sparsek`, loaded when asked for."""
    if name == "utils":
        return importlib.import_module("blackwell_sparsek.utils")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
