"""The tables of `bsk bench`: which cases it runs, all of them or a quick selection."""

from __future__ import annotations

from typing import NamedTuple

from blackwell_sparsek.bench.cases import Blocks, Case, varied


class Table(NamedTuple):
    """Cases by one name; `quick` is the part that tells most in the least time."""

    cases: tuple[Case, ...]
    quick: tuple[Case, ...]
    meaning: str


def densities(base: Case, size: int, *values: float) -> tuple[Case, ...]:
    """The case with random blocks of size x size, a pattern per query head, at each density."""
    return tuple(varied(base, blocks=Blocks(density=value, size=(size, size))) for value in values)


def _full_and_causal(*cases: Case) -> tuple[Case, ...]:
    return tuple(varied(case, is_causal=causal) for case in cases for causal in (False, True))


# ---- latency ----------------------------------------------------------------------------------

_SMALL = Case(dtype="fp16")
_S128, _S1024 = varied(_SMALL, q_len=128), varied(_SMALL, q_heads=16, q_len=1024)
_WIDE = varied(_S1024, head_dim=128)
_GQA = varied(_SMALL, q_heads=32, kv_heads=8)
_ODD = tuple(varied(_SMALL, q_len=length) for length in (333, 511, 777, 1023))
_DIMS = tuple(varied(_SMALL, head_dim=dim) for dim in (80, 96, 128, 192))

_SMALL_TABLE = Table(
    (
        *_full_and_causal(
            _S128,
            _SMALL,
            varied(_SMALL, q_heads=32),
            _S1024,
            _WIDE,
            varied(_S1024, batch=4),
            varied(_SMALL, q_len=256),
            varied(_SMALL, batch=4),
            *_ODD,
        ),
        *(varied(_SMALL, q_heads=heads) for heads in (12, 24, 40)),
        *_full_and_causal(_GQA, varied(_GQA, kv_heads=4)),
        *_DIMS,
    ),
    (
        _S128,
        *_full_and_causal(_SMALL, _S1024),
        varied(_SMALL, q_heads=32),
        _WIDE,
        varied(_S1024, batch=4),
        _ODD[2],
        _DIMS[1],
        varied(_GQA, is_causal=True),
    ),
    "latency, fp16: every small shape of the targets, and what lies between them",
)

# ---- throughput -------------------------------------------------------------------------------

_LONG = Case(q_heads=16, q_len=16384, dtype="bf16")
_LONG_WIDE = varied(_LONG, head_dim=128)
_FOUR = varied(_LONG, batch=4, q_len=4096)

_LONG_TABLE = Table(
    _full_and_causal(
        varied(_LONG_WIDE, batch=2, q_len=2048),
        _FOUR,
        varied(_FOUR, head_dim=128),
        _LONG,
        _LONG_WIDE,
    ),
    _full_and_causal(_LONG, _LONG_WIDE),
    "throughput, bf16",
)

# ---- few queries against many keys ------------------------------------------------------------

_DECODE = Case(q_heads=32, q_len=1, kv_len=1024, head_dim=128, dtype="bf16")
_KEYS = (1024, 4096, 16384, 65536, 131072)
_BATCHES = ((2, 1024), (4, 8192), (8, 1024), (16, 4096), (64, 1024))


def _decode(q_len: int, kv_len: int, group: int) -> Case:
    return varied(_DECODE, q_len=q_len, kv_len=kv_len, kv_heads=32 // group)


_DECODE_TABLE = Table(
    (
        *(_decode(1, keys, group) for group in (1, 4, 8) for keys in _KEYS),
        *(_decode(n, k, g) for n in (4, 16) for g in (1, 4, 8) for k in (1024, 16384, 131072)),
        varied(_decode(8, 16384, 4), is_causal="lower_right"),
        varied(_decode(8, 16384, 4), batch=16),
        *(varied(_decode(1, keys, 4), batch=n) for n, keys in _BATCHES),
    ),
    (
        *(_decode(1, keys, group) for group in (1, 8) for keys in (1024, 16384, 131072)),
        _decode(16, 16384, 4),
        varied(_decode(1, 4096, 4), batch=16),
    ),
    "1 to 16 queries against 1k to 128k keys, bf16, GQA groups 1, 4, 8",
)

# ---- block sparsity ---------------------------------------------------------------------------

_4K, _64K = varied(_LONG_WIDE, q_len=4096), varied(_LONG_WIDE, q_len=65536)
_SWEEP = (1.0, 0.75, 0.5, 0.25, 0.11, 0.06, 0.03, 0.01)
_CAUSAL_BLOCKS = densities(varied(_LONG_WIDE, is_causal=True), 128, 0.25)
_WINDOW_SINK = tuple(
    varied(_LONG_WIDE, blocks=Blocks("window", window=1024, sink=sink, size=(128, 128)))
    for sink in (0, 64)
)
_SKEWED = tuple(
    varied(base, blocks=Blocks("skewed", density=0.125)) for base in (_LONG_WIDE, _LONG)
)
_DOCUMENT = varied(_LONG_WIDE, blocks=Blocks("document", window=2000), is_causal=True)

_SPARSE_TABLE = Table(
    (
        *densities(_LONG_WIDE, 128, *_SWEEP),
        *densities(_LONG, 128, *_SWEEP),
        *densities(_LONG_WIDE, 64, *_SWEEP),
        *densities(_LONG, 64, 1.0, 0.5, 0.25, 0.11, 0.06),
        *densities(_4K, 128, 1.0, 0.52, 0.27, 0.13, 0.08),
        *(
            case
            for length in (2048, 8192)
            for base in (_LONG_WIDE, _LONG)
            for size in (128, 64)
            for case in densities(varied(base, q_len=length), size, 1.0, 0.5, 0.25, 0.13)
        ),
        *densities(_64K, 128, 0.25, 0.11, 0.06, 0.02),
        *densities(varied(_64K, head_dim=64), 128, 0.11),
        *_SKEWED,
        *_CAUSAL_BLOCKS,
        *densities(varied(_LONG, is_causal=True), 128, 0.25),
        *_WINDOW_SINK,
        _DOCUMENT,
    ),
    (
        *densities(_LONG_WIDE, 128, 1.0, 0.5, 0.25, 0.11, 0.06),
        *densities(_LONG, 128, 0.5, 0.25, 0.11, 0.06),
        *densities(_LONG_WIDE, 64, 1.0, 0.25, 0.11),
        *densities(_4K, 128, 0.52, 0.27, 0.13, 0.08),
        *(c for n in (2048, 8192) for c in densities(varied(_LONG_WIDE, q_len=n), 128, 0.25)),
        *_CAUSAL_BLOCKS,
        *_SKEWED,
    ),
    "time against density, bf16, B1 H16: random blocks per query head, skewed rows, window + sink, "
    "documents",
)

# ---- masks ------------------------------------------------------------------------------------

_WINDOWS = (
    varied(_LONG_WIDE, q_len=32768, window=(1024, 0), is_causal=True),
    varied(_LONG_WIDE, window=(512, 0), is_causal=True),
)
_MASKED = (varied(_4K, mask="padding_eighth"), varied(_4K, mask="additive"))

_MASKS_TABLE = Table(
    (
        *_WINDOWS,
        *_MASKED,
        *(varied(case, head_dim=64) for case in _MASKED),
        varied(_4K, mask="bool"),
        varied(_4K, softcap=30.0),
        varied(_SMALL, batch=4, mask="padding_eighth"),
        varied(_SMALL, mask="additive"),
    ),
    (*_WINDOWS, *_MASKED),
    "causal windows, padding, additive and bool attn_mask, softcap",
)

# ---- the CPU ----------------------------------------------------------------------------------

_CPU = Case(q_heads=8, q_len=2048, head_dim=64, dtype="fp32")
_CPU_TABLE = (_CPU, *densities(_CPU, 64, 1.0, 0.5, 0.25, 0.1))
_CPU_MASKS = (
    varied(_CPU, is_causal=True),
    varied(_CPU, window=(256, 0), is_causal=True),
    varied(_CPU, mask="padding"),
    varied(_CPU, dtype="bf16"),
    varied(_CPU, kv_heads=2),
)
_TRIAL = (
    Case(),
    Case(is_causal=True),
    *densities(Case(q_len=1024), 64, 0.25),
)

TABLES: dict[str, Table] = {
    "trial": Table(_TRIAL, _TRIAL[:1], "three small cases, for a look"),
    "cpu": Table(_CPU_TABLE, _CPU_TABLE[:2], "on the CPU: dense, and time against density"),
    "cpu_masks": Table(_CPU_MASKS, _CPU_MASKS[:2], "on the CPU: causal, window, padding, GQA"),
    "small": _SMALL_TABLE,
    "long": _LONG_TABLE,
    "decode": _DECODE_TABLE,
    "sparse": _SPARSE_TABLE,
    "masks": _MASKS_TABLE,
}


def chosen_cases(names: list[str], quick: bool = False) -> list[Case]:
    """Cases of tables and of parts of cases' names, each once, in order.

    Raises ValueError where a name is neither.
    """
    every = {case.name: case for table in TABLES.values() for case in table.cases}
    found: dict[str, Case] = {}
    for name in names:
        if name in TABLES:
            matches = list(TABLES[name].quick if quick else TABLES[name].cases)
        else:
            matches = [case for key, case in every.items() if name in key]
        if not matches:
            raise ValueError(
                f"cases: must name a table ({', '.join(TABLES)}) or be part of a case's name; got "
                f"{name!r}. See bsk bench --list."
            )
        found.update((case.name, case) for case in matches)
    return list(found.values())
