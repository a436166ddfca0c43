"""The import is local to __init__, the call is not."""
from __future__ import annotations

import math


class Layer:
    def __init__(self) -> None:
        from flashcore import build_baseline

        self._kernel = build_baseline()

    def __call__(self, q, k, v):
        return self._kernel.forward(q, k, v) * math.sqrt(1)


RESULT = Layer()(Q, K, V)
