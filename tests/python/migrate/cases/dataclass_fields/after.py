from dataclasses import dataclass, field
from typing import Any
import torch
from blackwell_sparsek import attention_forward
from flashcore import build_baseline


@dataclass
class Settings:
    kernel: Any = None
    heads: int = 8

    def __post_init__(self):
        if self.kernel is None:
            self.kernel = build_baseline()


@dataclass
class Factory:
    made: Any = field(default_factory=build_baseline)


class Plain(torch.nn.Module):

    def __init__(self):
        super().__init__()

    def forward(self, q, k, v):
        return attention_forward(q, k, v)


RESULT = Settings().kernel.forward(Q, K, V) + Plain()(Q, K, V)
