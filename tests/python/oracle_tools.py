"""What the Python tests share: the oracle, the tolerance, inputs with a halo of NaN."""

from __future__ import annotations

import torch
from torch import Tensor

from blackwell_sparsek import attention_forward
from blackwell_sparsek.core import Config, set_default_config


def haloed(*shape: int, dtype: torch.dtype, generator: torch.Generator, halo: int = 3) -> Tensor:
    """A random tensor whose surroundings in memory are NaN; strides are those of the padded one."""
    padded = torch.full(
        [size + 2 * halo for size in shape[:-1]] + [shape[-1] + 2 * halo], torch.nan
    )
    view = padded.to(dtype)[tuple(slice(halo, halo + size) for size in shape)]
    view.copy_(torch.randn(shape, generator=generator))
    return view


def oracle(Q: Tensor, K: Tensor, V: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    """`(output, lse)` in float64 by the kernel cpu_reference."""
    mask = options.get("attn_mask")
    if isinstance(mask, Tensor) and mask.dtype != torch.bool:
        options["attn_mask"] = mask.double()
    set_default_config(Config(kernel="cpu_reference"))
    try:
        return attention_forward(Q.double(), K.double(), V.double(), return_lse=True, **options)  # type: ignore[arg-type]
    finally:
        set_default_config(Config())


def spacing(reference: Tensor, dtype: torch.dtype) -> float:
    """The distance between neighbours of `dtype` at the largest finite value of `reference`."""
    finite = reference[reference.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return max(largest, 1e-3) * torch.finfo(dtype).eps


def assert_close(result: Tensor, reference: Tensor, torch_result: Tensor | None = None) -> None:
    """Special values in the same places; error at most 2x torch's own, plus one spacing.

    Without a result of torch's, four spacings are allowed in its place.
    """
    assert result.shape == reference.shape
    assert torch.equal(result.isnan(), reference.isnan())
    assert torch.equal(result.isinf(), reference.isinf())
    finite = reference.isfinite()
    if not finite.any():
        return
    one = spacing(reference, result.dtype)
    error = float((result.double() - reference)[finite].abs().max())
    allowed = 4 * one
    if torch_result is not None:
        allowed = 2 * float((torch_result.double() - reference)[finite].abs().max())
    assert error <= allowed + one, f"error {error:.3e}, allowed {allowed:.3e} + {one:.3e}"
