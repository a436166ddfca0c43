"""Is a result right: a sample of its rows against fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from blackwell_sparsek.bench.cases import Case, Inputs
from blackwell_sparsek.bench.torch_attention import exact_rows

_ROWS = 64

# Bound of an element's error: so much of its own size, and so much of the root mean square of its row,
# so that long rows, whose outputs are small, are held to their own size.
_OF_ELEMENT = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 1e-2}
_OF_ROW = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}


class Check:
    """Compares outputs of one case with exact ones, which are computed once."""

    def __init__(self, case: Case, inputs: Inputs) -> None:
        count = min(_ROWS, case.q_len)
        rows = torch.linspace(0, case.q_len - 1, count).round().long()
        self._rows = rows.to(inputs.Q.device)
        self._expected = exact_rows(case, inputs, self._rows)
        size = self._expected.square().mean(-1, keepdim=True).sqrt()
        own = self._expected.abs() * _OF_ELEMENT[case.dtype]
        self._bound = own + size * _OF_ROW[case.dtype]

    def __call__(self, output: Tensor) -> tuple[bool, float]:
        """Whether the sampled rows agree, and their largest difference."""
        error = (output[:, :, self._rows].double() - self._expected).abs()
        if error.numel() == 0:
            return True, 0.0
        return bool((error <= self._bound).all()), float(error.max())
