"""The import is local to __init__, the call is not."""
from __future__ import annotations

from blackwell_sparsek import attention_forward
import math


class Layer:
    def __init__(self) -> None:
        pass

    def __call__(self, q, k, v):
        return attention_forward(q, k, v) * math.sqrt(1)


RESULT = Layer()(Q, K, V)
