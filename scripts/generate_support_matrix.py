"""Writes docs/support_matrix.md from the kernels' own reasons: python scripts/generate_support_matrix.py

Each kernel is asked about each call, on devices that need not be here. A test holds the page equal
to what this prints.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from blackwell_sparsek import _C, BlockMask
from blackwell_sparsek.attention import _native_arguments

PAGE = Path(__file__).parents[1] / "docs" / "support_matrix.md"

# (type, name, compute capability, multiprocessors, bytes of shared memory per CTA)
DEVICES = {
    "CPU": ("cpu", "the CPU", 0, 0, 0),
    "H100 (sm_90a)": ("cuda", "NVIDIA H100", 90, 132, 232448),
    "B200 (sm_100)": ("cuda", "NVIDIA B200", 100, 148, 232448),
    "L4 (sm_89)": ("cuda", "NVIDIA L4", 89, 58, 101376),
}

HEADER = """# What runs where

Generated from the kernels' own reasons by `scripts/generate_support_matrix.py`; a test holds the two equal. On your machine,
`attention.plan(...)` says what takes a call of yours, `bsk doctor` what takes an ordinary one, and the error of a call that
no kernel takes lists every kernel's reasons. "By name": only where `Config(kernel='...')` or `BSK_KERNEL` asks for it.

Each call is the first line's with one thing changed. That line: Q, K and V of [1, 8, 512, 64], fp16, contiguous, no mask, no gradients.
Where no kernel takes a call, `fallback='sdpa'` (`BSK_FALLBACK=sdpa`) computes it by torch's SDPA.
"""


class Case(NamedTuple):
    """One call, by what it changes."""

    text: str
    q: tuple[int, int, int, int] = (1, 8, 512, 64)
    kv: tuple[int, int, int, int] | None = None  # None: as q
    v_head_dim: int | None = None  # None: as K
    dtype: torch.dtype = torch.float16
    options: Mapping[str, Any] = MappingProxyType({})
    row_padding: int = 0


def block_mask(size: tuple[int, int], heads: int = 1) -> BlockMask:
    blocks = torch.ones(1, heads, 512 // size[0], 512 // size[1])
    return BlockMask.top_k(blocks, 2, block_size=size, q_len=512, kv_len=512)


def cases() -> Iterator[Case]:
    yield Case("that call")
    for dtype in (torch.bfloat16, torch.float32):
        yield Case(str(dtype).removeprefix("torch."), dtype=dtype)
    for head_dim in (32, 72, 128, 256, 100, 320):
        yield Case(f"head_dim {head_dim}", q=(1, 8, 512, head_dim))
    yield Case("head_dim 192, V's 128", q=(1, 8, 512, 192), v_head_dim=128)
    yield Case("grouped queries, 8 heads on 2", kv=(1, 2, 512, 64))
    yield Case("1 query, 512 keys", q=(1, 8, 1, 64), kv=(1, 8, 512, 64))
    yield Case("1 query, 8192 keys", q=(1, 8, 1, 64), kv=(1, 8, 8192, 64))
    yield Case("333 queries, 777 keys", q=(1, 8, 333, 64), kv=(1, 8, 777, 64))
    yield Case("8192 queries and keys", q=(1, 8, 8192, 64))
    yield Case("rows padded by 8 elements", row_padding=8)
    yield Case("rows padded by 1 element", row_padding=1)
    yield Case("`is_causal=True`", options={"is_causal": True})
    yield Case("`is_causal='lower_right'`", options={"is_causal": "lower_right"})
    yield Case("`window=(128, 0)`", options={"window": (128, 0)})
    yield Case("`softcap=30.0`", options={"softcap": 30.0})
    yield Case("`scale=0.0`", options={"scale": 0.0})
    yield Case("`return_lse=True`", options={"return_lse": True})
    for dtype in (torch.bool, torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        mask = torch.zeros(1, 1, 512, 512, dtype=dtype)
        yield Case(f"`attn_mask` of {name}", options={"attn_mask": mask})
    for size in ((64, 64), (128, 128), (128, 16)):
        mask = block_mask(size)
        yield Case(f"`block_mask`, blocks of {size[0]} x {size[1]}", options={"block_mask": mask})
    mask = block_mask((128, 64), heads=8)
    yield Case("`block_mask` of each head", options={"block_mask": mask})


def arguments_of(case: Case) -> tuple[Any, ...]:
    def tensor(shape: tuple[int, int, int, int]) -> torch.Tensor:
        padded = (*shape[:3], shape[3] + case.row_padding)
        return torch.empty(padded, dtype=case.dtype)[..., : shape[3]]

    kv = case.kv or case.q
    options = {
        "scale": None, "is_causal": False, "attn_mask": None, "window": None, "softcap": None,
        "block_mask": None, "return_lse": False, "out": None, **case.options,
    }  # fmt: skip
    value = (*kv[:3], case.v_head_dim or kv[3])
    return _native_arguments(tensor(case.q), tensor(kv), tensor(value), **options)


def refusal(case: Case) -> str:
    """Why no kernel of any device takes a call: the rule that it breaks; '' where it breaks none."""
    try:
        _C.kernel_reasons(arguments_of(case), DEVICES["CPU"])
    except ValueError as error:
        return str(error).split(". ")[0]
    return ""


def table(device: tuple[str, str, int, int, int], all_cases: list[Case]) -> str:
    """One device: a column for each kernel that is for it, a note for each reason."""
    kernels = {name: (summary, forced) for name, summary, forced in _C.kernels()}
    reasons = [_C.kernel_reasons(arguments_of(case), device) for case in all_cases]
    columns = [name for name in kernels if any(not row[name] for row in reasons)]
    if not columns:
        return "No kernel of this version is for this device.\n"
    notes: dict[str, int] = {}

    def cell(name: str, why: list[str]) -> str:
        if not why:
            return "by name" if kernels[name][1] else "yes"
        numbers = [notes.setdefault(reason, len(notes) + 1) for reason in why]
        return "no (" + ", ".join(map(str, dict.fromkeys(numbers))) + ")"

    def default(row: dict[str, list[str]]) -> str:
        taking = (name for name in columns if not row[name] and not kernels[name][1])
        return next((f"`{name}`" for name in taking), "no kernel")

    lines = [
        "| call | is taken by | " + " | ".join(f"`{name}`" for name in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for case, row in zip(all_cases, reasons, strict=True):
        cells = [case.text, default(row), *(cell(name, row[name]) for name in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- `{name}`: {kernels[name][0]}" for name in columns)]
    lines += ["", *(f"{number}. {reason}" for reason, number in notes.items())] if notes else []
    return "\n".join(lines) + "\n"


def page() -> str:
    refused = {case.text: refusal(case) for case in cases()}
    takeable = [case for case in cases() if not refused[case.text]]
    parts = [HEADER]
    for text, rule in refused.items():
        if rule:
            parts.append(f"- {text}: taken by nothing. ValueError: {rule}")
    parts.append("")
    for name, device in DEVICES.items():
        parts.append(f"## {name}\n\n{table(device, takeable)}")
    return "\n".join(parts)


def main() -> int:
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
