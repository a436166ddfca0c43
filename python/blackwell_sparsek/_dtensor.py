"""How the attention operators are sharded over a device mesh (`torch.distributed.tensor`).

Attention is independent per batch entry and per key head, so those two dimensions may be sharded;
the lengths may not (DTensor gathers them first). Imported when the first DTensor arrives.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

__all__ = ["register_rules"]

_LISTS = slice(11, 16)  # block lists among the operator's arguments


@functools.cache
def register_rules() -> None:
    """Teaches DTensor the operators that return their result; `out` variants stay unsupported."""
    operators = torch.ops.blackwell_sparsek
    for overload, results in (
        (operators.attention_forward.default, 1),
        (operators.attention_forward_dense.default, 1),
        (operators.attention_forward_lse.default, 2),
    ):
        register_sharding(overload)(functools.partial(_acceptable, results))


def _acceptable(results: int, *arguments: Any) -> list[tuple[list[Any], list[Any]]]:
    """Pairs (placements of the results, placements of the arguments; None for non-tensors)."""
    q, k = arguments[:2]
    everything = [_if_tensor(argument, Replicate()) for argument in arguments]
    found = [([Replicate()] * results, everything), _sharded(results, 0, arguments)]
    # Uneven shards of heads would pair query heads with other key heads.
    if q.shape[1] % q.mesh.size() == 0 and k.shape[1] % q.mesh.size() == 0:
        found.append(_sharded(results, 1, arguments))
    return found


def _sharded(results: int, dim: int, arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    placements: list[Any] = [None] * len(arguments)
    placements[:3] = [Shard(dim)] * 3
    mask = arguments[8] if len(arguments) > 8 else None
    if mask is not None:
        own = dim + len(mask.shape) - 4  # a mask broadcasts from the right
        placements[8] = Shard(own) if own >= 0 and mask.shape[own] > 1 else Replicate()
    for position, blocks in enumerate(arguments[_LISTS], start=_LISTS.start):
        if blocks is not None:
            placements[position] = Shard(dim) if blocks.shape[dim] > 1 else Replicate()
    return [Shard(dim)] * results, placements


def _if_tensor(argument: Any, placement: Any) -> Any:
    return placement if hasattr(argument, "placements") else None
