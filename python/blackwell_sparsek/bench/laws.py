"""Time against density: how near a sparse call comes to density x dense time."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch

from blackwell_sparsek.bench.peers import OURS


class Fit(NamedTuple):
    """us = a + b * density * dense_us over the densities of one problem."""

    name: str
    a_us: float
    b: float
    rows: list[dict[str, Any]]  # by density


def dense_us(row: dict[str, Any]) -> float | None:
    """Time of the fastest full attention over the same tensors that was timed in the row."""
    times = [us["median"] for name, us in row["us"].items() if name.endswith("_dense")]
    return min(times) if times else None


def percent_of_law(row: dict[str, Any], side: str = OURS) -> float | None:
    """100 where a side takes density x the fastest dense time; None without a dense time."""
    dense = dense_us(row)
    if dense is None or side not in row["us"]:
        return None
    return float(100 * row["density"] * dense / row["us"][side]["median"])


def fits(rows: list[dict[str, Any]]) -> list[Fit]:
    """Least squares for every problem with random blocks at three densities or more."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        blocks = (row.get("case") or {}).get("blocks")
        if blocks and blocks["pattern"] == "random" and dense_us(row) is not None:
            rest = {**row["case"], "blocks": {**blocks, "density": None}}
            families.setdefault(json.dumps([rest, row["threads"]]), []).append(row)
    found = []
    for family in families.values():
        family.sort(key=lambda row: float(row["density"]))
        if len({row["density"] for row in family}) < 3:
            continue
        ideal = torch.tensor(
            [row["density"] * (dense_us(row) or 0.0) for row in family], dtype=torch.float64
        )
        measured = torch.tensor([row["us"][OURS]["median"] for row in family], dtype=torch.float64)
        columns = torch.stack([torch.ones_like(ideal), ideal], 1)
        # Weighted by 1 / time, so that relative errors count, as the sparse end is what it is about.
        weight = (1 / measured).unsqueeze(1)
        a, b = torch.linalg.lstsq(columns * weight, torch.ones_like(weight)).solution.flatten()
        found.append(Fit(family_name(family[0]), float(a), float(b), family))
    return found


def family_name(row: dict[str, Any]) -> str:
    """The row's name without its density."""
    parts = str(row["name"]).split("_")
    return "_".join(part for part in parts if not part.startswith("density"))
