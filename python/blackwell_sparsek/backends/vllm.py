"""vLLM and vLLM-Omni.

A vLLM backend needs a kernel that reads a paged cache, which does not exist yet:
`SparseKBackend` and `register_vllm_backend` say so instead of pretending. vLLM-Omni's sparse
attention hook needs none: `vllm_omni_attention` is a plain function, tested as one; it has never run
inside vLLM-Omni.
"""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from blackwell_sparsek._C import UnsupportedError
from blackwell_sparsek.backends import require_framework
from blackwell_sparsek.layouts import attention_bshd

__all__ = ["SparseKBackend", "register_vllm_backend", "vllm_omni_attention"]


def _refuse(what: str) -> NoReturn:
    require_framework("vllm", "vllm")
    raise UnsupportedError(
        f"{what}: cannot be used, as BlackwellSparseK has no kernel for vLLM's paged cache yet. "
        "Choose one of vLLM's own backends (--attention-backend FLASH_ATTN)."
    )


class SparseKBackend:
    """The name of the vLLM backend to come. Using it raises.

    Raises:
        ImportError: vLLM is not installed. UnsupportedError: the backend does not exist yet.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> SparseKBackend:
        _refuse(cls.__name__)

    @staticmethod
    def get_name() -> str:
        _refuse("SparseKBackend.get_name")


def register_vllm_backend() -> None:
    """Will register the vLLM backend; raises until there is one.

    Raises:
        ImportError: vLLM is not installed. UnsupportedError: the backend does not exist yet.
    """
    _refuse("register_vllm_backend")


def vllm_omni_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    params: dict[str, Any] | None = None,
    is_causal: bool = False,
    softmax_scale: float | None = None,
) -> Tensor:
    """vLLM-Omni's sparse-attention callable (entry points `vllm_omni.sparse_attn`).

    Args:
        query: `[batch, q_len, q_heads, head_dim]`; key, value: `[batch, kv_len, kv_heads, ...]`.
        params: `block_mask` (a BlockMask), `window` and `softcap` are read, as attention_forward's;
            the host's own entries (latent shapes, frames) are of no use here.
        is_causal: the last query sees the last key.
        softmax_scale: default 1/sqrt(head_dim).

    Returns:
        `[batch, q_len, q_heads, v_head_dim]`.
    """
    params = params or {}
    result: Tensor = attention_bshd(
        query,
        key,
        value,
        softmax_scale,
        is_causal="lower_right" if is_causal else False,
        block_mask=params.get("block_mask"),
        window=params.get("window"),
        softcap=params.get("softcap"),
    )
    return result


vllm_omni_attention.capabilities = frozenset()  # type: ignore[attr-defined]  # no mask argument
