"""`validate_correctness`: does a result agree with a reference, and where does it not."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["validate_correctness"]


def validate_correctness(
    output: Tensor, reference: Tensor, rtol: float = 1e-3, atol: float = 2e-3
) -> tuple[bool, dict[str, Any]]:
    """Compares element by element: `|output - reference| <= atol + rtol * |reference|`.

    NaN agrees with NaN only, and an infinity with the same infinity only. Computed in fp64, so that
    the comparison itself rounds nothing.

    Args:
        output, reference: floating-point tensors of one shape, dtype and device; may be empty.
        rtol, atol: relative and absolute tolerance, >= 0 and finite.

    Returns:
        Whether all elements agree, and a dict with
        `max_diff` (float; inf where a NaN or an infinity disagrees), `mean_diff` and `median_diff`
        (over the elements finite on both sides), `num_elements`, `num_mismatches`, `mismatch_rate`
        (in [0, 1]), `num_nonfinite_mismatches`, `worst_diff_location` (index tuple),
        `worst_diff_output`, `worst_diff_reference` (floats there), `rtol`, `atol`.
        Empty tensors agree, with zeros and None for the worst one.

    Raises:
        TypeError: not tensors, not floating-point, or different dtypes.
        ValueError: different shapes or devices, or a tolerance that is negative or not finite.
    """
    _check(output, reference, rtol, atol)
    result, expected = output.detach().double(), reference.detach().double()
    finite = result.isfinite() & expected.isfinite()
    same_special = (result == expected) | (result.isnan() & expected.isnan())
    difference = torch.where(finite, (result - expected).abs(), torch.inf)
    difference = torch.where(~finite & same_special, 0.0, difference)
    # A finite value beside an infinite reference must not pass by rtol * inf.
    mismatch = ~(difference <= atol + rtol * torch.where(finite, expected.abs(), 0.0))

    num_elements = difference.numel()
    num_mismatches = int(mismatch.sum())
    metrics: dict[str, Any] = {
        "max_diff": 0.0,
        "mean_diff": 0.0,
        "median_diff": 0.0,
        "num_elements": num_elements,
        "num_mismatches": num_mismatches,
        "mismatch_rate": num_mismatches / num_elements if num_elements else 0.0,
        "num_nonfinite_mismatches": int((mismatch & ~finite).sum()),
        "worst_diff_location": None,
        "worst_diff_output": None,
        "worst_diff_reference": None,
        "rtol": rtol,
        "atol": atol,
    }
    if num_elements:
        worst = int(difference.argmax())
        metrics["max_diff"] = float(difference.flatten()[worst])
        metrics["worst_diff_location"] = tuple(
            int(index) for index in torch.unravel_index(torch.tensor(worst), difference.shape)
        )
        metrics["worst_diff_output"] = float(result.flatten()[worst])
        metrics["worst_diff_reference"] = float(expected.flatten()[worst])
        between_finite = difference[finite]
        if between_finite.numel():
            metrics["mean_diff"] = float(between_finite.mean())
            # torch takes the lower of two middle values; with the upper one this is the median.
            lower, upper = between_finite.median(), -(-between_finite).median()
            metrics["median_diff"] = float((lower + upper) / 2)
    return num_mismatches == 0, metrics


def _check(output: Tensor, reference: Tensor, rtol: float, atol: float) -> None:
    for name, tensor in (("output", output), ("reference", reference)):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name}: must be a torch.Tensor; got {type(tensor).__name__}. "
                "Convert it with torch.as_tensor."
            )
        if not tensor.is_floating_point():
            raise TypeError(
                f"{name}: must be floating-point; got {tensor.dtype}. "
                "Compare integers with torch.equal."
            )
    if output.shape != reference.shape:
        raise ValueError(
            f"reference: must have the shape of output, {tuple(output.shape)}; got "
            f"{tuple(reference.shape)}. A shape that differs is a wrong result, not a rounding."
        )
    if output.dtype != reference.dtype:
        raise TypeError(
            f"reference: must have the dtype of output, {output.dtype}; got {reference.dtype}. "
            f"Convert one of them, for instance reference.to({output.dtype})."
        )
    if output.device != reference.device:
        raise ValueError(
            f"reference: must be on the device of output, {output.device}; got "
            f"{reference.device}. Move it with .to({str(output.device)!r})."
        )
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
            raise TypeError(
                f"{name}: must be a number; got {type(tolerance).__name__}. Pass a float."
            )
        if not math.isfinite(tolerance) or tolerance < 0:
            raise ValueError(
                f"{name}: must be finite and >= 0; got {tolerance}. Pass 0 for no tolerance."
            )
