#!/usr/bin/env python3
"""Compares figures with the targets: python benchmarks/targets.py FILE.json... [--wheel FILE.whl]

Reads what `bsk bench --json` wrote (of a case in several files the last counts) and prints every
target of the Hopper forward and of the masks: must, goal, measured, verdict. Exits 1 where a 'must'
was measured and missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from blackwell_sparsek.bench import laws, report
from blackwell_sparsek.bench.peers import OURS

Row = dict[str, Any]
Figures = dict[str, Row]  # by case name; "first_call" and "wheel_mb" besides
Measure = Callable[[Figures], float | None]

# Other kernels on an H100 80GB HBM3, 2026-11-22: us per graph node, warm, fp16. cuDNN,
# FlashAttention-2, -3 and -4; causal only where it was measured.
SMALL_PEER_US: dict[str, tuple[float, ...]] = {
    "b1_h8_s128_d64_fp16": (6.0, 5.5, 7.5, 5.0),
    "b1_h8_s512_d64_fp16": (9.0, 10.3, 12.2, 9.2),
    "b1_h8_s512_d64_fp16_causal": (9.4, 9.5),
    "b1_h32_s512_d64_fp16": (9.4, 12.5, 12.4, 9.5),
    "b1_h16_s1024_d64_fp16": (13.7, 20.9, 18.7, 15.0),
    "b1_h16_s1024_d64_fp16_causal": (14.5, 15.7),
    "b1_h16_s1024_d128_fp16": (18.2, 32.0, 18.0, 15.7),
    "b4_h16_s1024_d64_fp16": (43.6, 64.0, 47.2, 43.8),
}
# TFLOP/s, bf16: FlashAttention-2, cuDNN, FlashAttention-3, FlashAttention-4.
LONG_PEER_TFLOPS: dict[str, tuple[float, ...]] = {
    "b2_h16_s2048_d128_bf16": (338, 598, 612, 583),
    "b2_h16_s2048_d128_bf16_causal": (206, 414, 553, 485),
    "b4_h16_s4096_d64_bf16": (297, 475, 486, 541),
    "b4_h16_s4096_d64_bf16_causal": (259, 415, 447, 465),
    "b4_h16_s4096_d128_bf16": (345, 679, 696, 705),
    "b4_h16_s4096_d128_bf16_causal": (242, 577, 613, 612),
    "b1_h16_s16384_d64_bf16": (311, 455, 515, 528),
    "b1_h16_s16384_d64_bf16_causal": (277, 452, 529, 568),
    "b1_h16_s16384_d128_bf16": (352, 643, 695, 704),
    "b1_h16_s16384_d128_bf16_causal": (320, 575, 676, 626),
}


class Target(NamedTuple):
    """A target: `must` and `goal` are bounds of `measure`, or the goal of another measure."""

    issue: int
    case: str
    must: float
    goal: float
    measure: Measure
    unit: str
    at_most: bool = False  # smaller is better
    goal_measure: Measure | None = None


class Verdict(NamedTuple):
    target: Target
    measured: float | None
    measured_for_goal: float | None
    word: str  # "goal", "must", "MISSED" or "not measured"


# ---- measures ---------------------------------------------------------------------------------


def us(case: str, clock: str = "gpu_us") -> Measure:
    """Our time; only where the row is right."""
    return _of(case, lambda row: row["us"][OURS].get(clock))


def tflops(case: str) -> Measure:
    """Of selected pairs."""
    return _of(case, _speed)


def least_ratio(case: str, *peers: str, clock: str = "gpu_us") -> Measure:
    """The fastest of the peers' time over ours: all of the row where none is named."""

    def measure(row: Row) -> float | None:
        names = peers or tuple(name for name in row["us"] if _is_peer(name))
        return _ratio(row, names, clock)

    return _of(case, measure)


def host_ratio(case: str, *clocks: str) -> Measure:
    """The cheapest SDPA's time to issue a call over ours, by the best of the clocks."""

    def measure(row: Row) -> float | None:
        ratios = [report.host_ratio(row, clock) for clock in clocks]
        return max((ratio for ratio in ratios if ratio is not None), default=None)

    return _of(case, measure)


def percent_of_law(case: str) -> Measure:
    return _of(case, laws.percent_of_law)


def over_dense(case: str) -> Measure:
    """Our time with a mask over our time without."""

    def measure(row: Row) -> float | None:
        ratio = report.ratio(row, f"{OURS}_dense")
        return None if ratio is None else 1 / ratio

    return _of(case, measure)


def _of(case: str, measure: Callable[[Row], float | None]) -> Measure:
    def found(figures: Figures) -> float | None:
        row = figures.get(case)
        if row is None:
            return None
        if not row["correct"]:
            return float("nan")  # a wrong result meets no target
        return measure(row)

    return found


def _speed(row: Row) -> float:
    return float(row["flops"] / row["us"][OURS]["median"] / 1e6)


def _is_peer(name: str) -> bool:
    return not name.startswith(OURS) and not name.endswith("_dense")


def _ratio(row: Row, names: tuple[str, ...], clock: str) -> float | None:
    times = [row["us"][name][clock] for name in names if clock in row["us"].get(name, {})]
    own = row["us"][OURS].get(clock)
    return min(times) / own if times and own else None


# ---- targets ----------------------------------------------------------------------------------


def _small() -> list[Target]:
    heads = (
        ("b1_h8_s512_d64_fp16", 5, 3.5),
        ("b1_h16_s1024_d64_fp16", 10, 8),
        ("b1_h8_s128_d64_fp16", 4.5, 3),
    )
    found = [
        Target(4, case, must, goal, us(case), "us", at_most=True) for case, must, goal in heads
    ]
    plain = dict.fromkeys(name.removesuffix("_causal") for name in SMALL_PEER_US)
    for case in (name + suffix for name in plain for suffix in ("", "_causal")):
        for clock in ("gpu_us", "cold_us"):
            label = f"{case}: fastest SDPA over ours, {'warm' if clock == 'gpu_us' else 'cold'}"
            ratio = least_ratio(case, "sdpa_cudnn", "sdpa_flash", clock=clock)
            found.append(Target(4, label, 1.0, 1.5, ratio, "x"))
        if case in SMALL_PEER_US:
            known = min(SMALL_PEER_US[case])
            found.append(
                Target(
                    4,
                    f"{case}: best figure known ({known} us) over ours",
                    1.0,
                    1.5,
                    _known_over(case, known),
                    "x",
                )
            )
    return found


def _known_over(case: str, known: float) -> Measure:
    own = us(case)

    def measure(figures: Figures) -> float | None:
        value = own(figures)
        return None if value is None else known / value

    return measure


def _long() -> list[Target]:
    found = []
    for case, must, goal in (
        ("b1_h16_s16384_d64_bf16", 500, 600),
        ("b1_h16_s16384_d64_bf16_causal", 500, 620),
        ("b1_h16_s16384_d128_bf16", 640, 740),
        ("b1_h16_s16384_d128_bf16_causal", 600, 710),
    ):
        found.append(Target(4, case, must, goal, tflops(case), "TFLOP/s"))
    for case in LONG_PEER_TFLOPS:
        found.append(
            Target(
                4,
                f"{case}: over cuDNN (goal: over the best peer, here or known)",
                1.0,
                1.05,
                least_ratio(case, "sdpa_cudnn"),
                "x",
                goal_measure=_over_best(case),
            )
        )
    return found


def _over_best(case: str) -> Measure:
    known = max(LONG_PEER_TFLOPS[case])

    def measure(row: Row) -> float | None:
        here = _ratio(row, tuple(name for name in row["us"] if _is_peer(name)), "gpu_us")
        of_known = _speed(row) / known
        return of_known if here is None else min(here, of_known)

    return _of(case, measure)


def _calls() -> list[Target]:
    case = "b1_h8_s512_d64_fp16"
    event = least_ratio(case, "sdpa_cudnn", "sdpa_flash", clock="event_us")
    return [
        Target(4, "host issue cost, SDPA's over ours, allocating", 2.8, 3.8,
               host_ratio(case, "host_us"), "x"),
        Target(4, "host issue cost, SDPA's over ours, out= or prepared", 4.5, 6,
               host_ratio(case, "host_out_us", "host_prepared_us"), "x"),
        Target(4, "event pair around one eager call, S512, SDPA's over ours", 2.2, 3, event, "x"),
        Target(4, "first call, documented", 0.2, 0.05, _first_call("documented"), "s", at_most=True),
        Target(4, "first call, another configuration", 10, 4, _first_call("another"), "s", at_most=True),
        Target(4, "wheel", 40, 15, lambda f: f.get("wheel_mb", {}).get("mb"), "MB", at_most=True),
    ]  # fmt: skip


def _first_call(which: str) -> Measure:
    return lambda figures: figures.get("first_call", {}).get(which, {}).get("seconds")


def _random(length: int, dim: int, block: int, density: str, causal: str = "") -> str:
    name = f"b1_h16_s{length}_d{dim}_bf16{causal}_block{block}_random_density{density}"
    return name + "_per_qhead"


_SPARSE = (
    (16384, 128, 128, {"0.5": (600, 680), "0.25": (550, 660), "0.11": (500, 630), "0.06": (440, 600)}),
    (16384, 64, 128, {"0.5": (430, 560), "0.25": (400, 540), "0.11": (360, 510), "0.06": (310, 480)}),
    (16384, 128, 64, {"1": (460, 600), "0.25": (435, 580), "0.11": (400, 550)}),
    (4096, 128, 128, {"0.52": (520, 620), "0.27": (440, 580), "0.13": (330, 520), "0.08": (240, 450)}),
)  # fmt: skip


_NEVER_SLOWER = (
    *((length, dim, block, "0.25") for length in (2048, 8192) for dim in (128, 64) for block in (128, 64)),
    (4096, 128, 128, "0.27"),
)  # fmt: skip


def _sparse() -> list[Target]:
    found = []
    for length, dim, block, densities in _SPARSE:
        for density, (must, goal) in densities.items():
            case = _random(length, dim, block, density)
            found.append(Target(5, case, must, goal, tflops(case), "TFLOP/s"))
            label = f"{case}: FlexAttention's time over ours"
            found.append(Target(5, label, 1.4, 2, least_ratio(case, "flex"), "x"))
    causal = _random(16384, 128, 128, "0.25", "_causal")
    found.append(Target(5, f"{causal}: of the law", 75, 88, percent_of_law(causal), "%"))
    for length, dim, block, density in _NEVER_SLOWER:
        case = _random(length, dim, block, density)
        dense = f"{OURS}_dense"
        found.append(
            Target(
                5,
                f"{case}: our dense time over ours (goal: % of the law)",
                1.0,
                75,
                least_ratio(case, dense),
                "x",
                goal_measure=percent_of_law(case),
            )
        )
    steered = _random(16384, 128, 128, "0.11")
    for builder in ("from_dense", "top_k"):
        found.append(
            Target(
                5,
                f"mask by {builder}, share of the attention, S=16k density .11",
                10,
                3,
                _building(steered, builder),
                "%",
                at_most=True,
            )
        )
    return found


def _building(case: str, builder: str) -> Measure:
    def measure(row: Row) -> float | None:
        share = row.get("mask_building", {}).get(builder, {}).get("share")
        return None if share is None else 100 * share

    return _of(case, measure)


def _masks() -> list[Target]:
    wide, narrow = (
        f"b1_h16_s{s}_d128_bf16_causal_window{w}_0" for s, w in ((32768, 1024), (16384, 512))
    )
    padding, additive = (f"b1_h16_s4096_d128_bf16_{m}" for m in ("padding_eighth", "additive"))
    blocks = _random(4096, 128, 128, "0.27")
    return [
        Target(5, wide, 500, 620, tflops(wide), "TFLOP/s"),
        Target(5, narrow, 360, 520, tflops(narrow), "TFLOP/s"),
        Target(5, f"{padding}: over unmasked", 1.1, 1.02, over_dense(padding), "x", at_most=True),
        Target(5, f"{additive}: over unmasked", 1.6, 1.3, over_dense(additive), "x", at_most=True),
        Target(5, "host issue cost of a block mask, on top", 1, 0.5, _host_on_top(blocks), "us", at_most=True),
        Target(5, "host issue cost of a padding mask, on top", 1, 0.5, _host_on_top(padding), "us", at_most=True),
    ]  # fmt: skip


def _host_on_top(case: str) -> Measure:
    def measure(row: Row) -> float | None:
        own, plain = row["us"][OURS], row["us"].get(f"{OURS}_dense", {})
        both = "host_us" in own and "host_us" in plain
        return own["host_us"] - plain["host_us"] if both else None

    return _of(case, measure)


TARGETS = [*_small(), *_long(), *_calls(), *_sparse(), *_masks()]


# ---- verdicts ---------------------------------------------------------------------------------


def verdict(target: Target, figures: Figures) -> Verdict:
    value = target.measure(figures)
    for_goal = value if target.goal_measure is None else target.goal_measure(figures)
    if value is None:
        return Verdict(target, None, for_goal, "not measured")

    def meets(measured: float | None, bound: float) -> bool:
        if measured is None:
            return False
        return measured <= bound if target.at_most else measured >= bound

    if not meets(value, target.must):
        return Verdict(target, value, for_goal, "MISSED")
    return Verdict(target, value, for_goal, "goal" if meets(for_goal, target.goal) else "must")


def load(paths: list[Path], wheel: Path | None = None) -> Figures:
    figures: Figures = {}
    for path in paths:
        result = json.loads(path.read_text())
        figures.update((row["name"], row) for row in result["rows"])
        if "first_call" in result:
            figures["first_call"] = result["first_call"]
    if wheel is not None:
        figures["wheel_mb"] = {"mb": wheel.stat().st_size / 1e6}
    return figures


def table(verdicts: list[Verdict]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"

    lines = ["issue  verdict       measured     must     goal  unit     case"]
    for target, value, for_goal, word in verdicts:
        shown = number(value)
        if target.goal_measure is not None and for_goal is not None:
            shown += f" / {number(for_goal)}"
        lines.append(
            f"{target.issue:5}  {word:12}{shown:>10}{target.must:9g}{target.goal:9g}  "
            f"{target.unit:8} {target.case}"
        )
    words = [each.word for each in verdicts]
    counts = (f"{words.count(w)} {w}" for w in ("goal", "must", "MISSED", "not measured"))
    return "\n".join([*lines, ", ".join(counts)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--wheel", type=Path, help="measure this wheel's size")
    parser.add_argument("--measured", action="store_true", help="only what the files hold")
    options = parser.parse_args(arguments)
    figures = load(options.files, options.wheel)
    verdicts = [verdict(target, figures) for target in TARGETS]
    if options.measured:
        verdicts = [each for each in verdicts if each.word != "not measured"]
    print(table(verdicts))
    return 1 if any(each.word == "MISSED" for each in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
