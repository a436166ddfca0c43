"""What the bench prints and draws of its rows: a table, Markdown, charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from blackwell_sparsek.bench.laws import fits, percent_of_law
from blackwell_sparsek.bench.peers import OURS, OURS_DENSE

Row = dict[str, Any]


def _columns(rows: Sequence[Row], peak: Callable[[Row], float]) -> dict[str, Any]:
    """Heading -> row -> text; empty where the row lacks it."""

    def ours(clock: str, digits: int = 1) -> Callable[[Row], str]:
        return lambda row: _number(row["us"][OURS].get(clock), digits)

    def spread(row: Row) -> str:
        us = row["us"][OURS]
        digits = 1 if us["median"] < 1000 else 0
        return f"{us['least']:.{digits}f}-{us['greatest']:.{digits}f}"

    def speed(row: Row) -> float:
        return float(row["flops"] / row["us"][OURS]["median"] / 1e6)

    def bandwidth(row: Row) -> float:
        return float(row["bytes"] / row["us"][OURS]["median"] / 1e3)

    def percent(row: Row) -> str:
        return f"{100 * speed(row) / peak(row):.0f}" if peak(row) else ""

    def host(clock: str) -> Callable[[Row], str]:
        return lambda row: _number(host_ratio(row, clock), 2)

    def against(peer: str) -> Callable[[Row], str]:
        return lambda row: _number(ratio(row, peer), 2)

    peers = [name for name in dict.fromkeys(n for row in rows for n in row["us"]) if name != OURS]
    return {
        "case": lambda row: row["name"],
        "threads": lambda row: "" if "gpu_us" in row["us"][OURS] else str(row["threads"]),
        "us": ours("median"),
        "spread": spread,
        "cold": ours("cold_us"),
        "overlapped": ours("overlapped_us"),
        "empty": lambda row: _number((row.get("control") or {}).get("us"), 2),
        "event": ours("event_us"),
        "host": ours("host_us", 2),
        "host out=": ours("host_out_us", 2),
        "host prepared": ours("host_prepared_us", 2),
        "TFLOP/s": lambda row: _number(speed(row), 1 if speed(row) >= 10 else 3),
        "% peak": percent,
        "GB/s": lambda row: _number(bandwidth(row), 0 if bandwidth(row) >= 10 else 1),
        "% law": lambda row: _number(percent_of_law(row), 0),
        **{f"x {_short(peer)}": against(peer) for peer in peers},
        "x host": host("host_us"),
        "x host out=": host("host_out_us"),
        "x host prepared": host("host_prepared_us"),
        "error": lambda row: f"{row['max_error']:.1e}" + ("" if row["correct"] else " WRONG"),
    }


def ratio(row: Row, peer: str, clock: str = "median") -> float | None:
    """The peer's time over ours: how many times faster we are."""
    other, own = row["us"].get(peer, {}).get(clock), row["us"][OURS].get(clock)
    return other / own if other and own else None


def host_ratio(row: Row, clock: str) -> float | None:
    """The host issue cost of the cheapest SDPA backend over ours, by one of its clocks."""
    times = [
        us["host_us"]
        for name, us in row["us"].items()
        if name.startswith("sdpa") and not name.endswith("_dense") and "host_us" in us
    ]
    own = row["us"][OURS].get(clock)
    return min(times) / own if times and own else None


def _short(side: str) -> str:
    """A side's name as a heading: cudnn, cudnn_dense, own dense, a kernel's name."""
    if side == OURS_DENSE:
        return "own dense"
    return side.removeprefix("sdpa_").removeprefix(f"{OURS}:")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def print_result(result: dict[str, Any], console: Console) -> None:
    """One line a case, also where the terminal (or a file) is narrower than the line; then the fits,
    the masks and what is missing."""
    rows = result["rows"]
    if rows:
        table = Table(box=None, pad_edge=False)
        columns = _columns(rows, _peak_of(result))
        shown = [name for name in columns if any(columns[name](row) for row in rows)]
        for name in shown:
            table.add_column(name, justify="left" if name == "case" else "right", no_wrap=True)
        for row in rows:
            cells = [columns[name](row) or "-" for name in shown]
            table.add_row(*cells, style=None if row["correct"] else "red")
        wide = Console(file=console.file, width=max(console.width, 300))
        wide.print(table, soft_wrap=True)
    for line in notes(result):
        console.print(line, style="dim", soft_wrap=True, markup=False, highlight=False)


def notes(result: dict[str, Any]) -> list[str]:
    """What the table does not hold."""
    lines = []
    for peak in result["peaks"]:
        threads = f" with {peak['threads']} threads" if result["device"] == "cpu" else ""
        lines.append(f"peak{threads}: {peak['tflops']:.3f} TFLOP/s ({peak['meaning']})")
    for fit in fits(result["rows"]):
        laws = ", ".join(
            f"{row['density']:.2f}: {percent_of_law(row):.0f}%" for row in reversed(fit.rows)
        )
        lines.append(
            f"{fit.name}: us = {fit.a_us:.1f} + {fit.b:.2f} x density x dense; of the law at {laws}"
        )
    for row in result["rows"]:
        for builder, times in (row.get("mask_building") or {}).items():
            lines.append(f"{row['name']}: mask by {builder}: {_building(times)}")
    for name, found in result.get("first_call", {}).items():
        took = f"{found['seconds']:.3f} s" if "seconds" in found else found["error"]
        lines.append(f"first call of a process, {name} configuration: {took}")
    missing: dict[tuple[str, str], int] = {}
    for row in result["rows"]:
        for peer, why in row.get("not_run", {}).items():
            missing[peer, why] = missing.get((peer, why), 0) + 1
        for side, us in row["us"].items():
            if "graph_error" in us:
                lines.append(f"{row['name']}: {side} timed by events: {us['graph_error']}")
    for (peer, why), count in missing.items():
        lines.append(f"{peer} not timed in {count} of {len(result['rows'])} cases: {why}")
    lines += [f"not run: {entry['name']}: {entry['reason']}" for entry in result["skipped"]]
    return lines


def _building(times: dict[str, Any]) -> str:
    parts = [f"{times[key]:.1f} us {name}" for key, name in _BUILDING.items() if key in times]
    if "share" in times:
        parts.append(f"{100 * times['share']:.1f}% of the attention")
    if "error" in times:
        parts.append(times["error"])
    return ", ".join(parts)


_BUILDING = {"gpu_us": "GPU", "wall_us": "in all", "host_us": "host"}


def markdown(result: dict[str, Any], wanted: Sequence[str] | None = None) -> str:
    """The table as Markdown, with where it comes from under it.

    Args:
        wanted: columns by their headings, instead of all that hold something and the notes.

    Raises ValueError where there is no such column.
    """
    rows, environment = result["rows"], result["environment"]
    columns = _columns(rows, _peak_of(result))
    shown = [name for name in columns if any(columns[name](row) for row in rows)]
    for name in wanted or ():
        if name not in shown:
            raise ValueError(
                f"columns: must be of {', '.join(shown)}; got {name!r}. Pass them with commas between."
            )
    shown = list(wanted or shown)
    lines = [
        "| " + " | ".join(shown) + " |",
        "|---" + "|---:" * (len(shown) - 1) + "|",
        *("| " + " | ".join(columns[name](row) or "-" for name in shown) + " |" for row in rows),
        "",
        *(f"- {line}" for line in ([] if wanted else notes(result))),
        f"- {environment['device']}, torch {environment['torch']}, commit {environment['commit']}, "
        f"{environment['date']}: `{environment['command']}`",
    ]
    return "\n".join(lines) + "\n"


def _peak_of(result: dict[str, Any]) -> Callable[[Row], float]:
    by_threads = {peak["threads"]: peak["tflops"] for peak in result["peaks"]}
    return lambda row: float(by_threads.get(row["threads"], 0.0))


# ---- charts -----------------------------------------------------------------------------------


def plot(rows: list[Row], path: Path) -> list[Path]:
    """Charts of time, of TFLOP/s (`..._tflops`) and, where there are fits, of time against density
    (`..._density`); PNG, SVG or PDF by the name. Returns the files written.

    Raises ImportError that names the extra where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "bsk bench --plot needs matplotlib. Install it with "
            "`pip install blackwell-sparsek[plot]`."
        ) from error
    sides = list(dict.fromkeys(side for row in rows for side in row["us"]))
    size = (10, 1.2 + 0.5 * len(rows) * max(1, len(sides)) / 2)
    written = []

    figure = Figure(figsize=size, layout="tight")
    _bars(figure.subplots(), rows, sides, lambda row, us: us)
    figure.axes[0].set_xlabel("us per call (median of rounds; whiskers: least and greatest)")
    written.append(_saved(figure, path, ""))

    figure = Figure(figsize=size, layout="tight")
    same = [side for side in sides if not side.endswith("_dense")]
    _bars(figure.subplots(), rows, same, lambda row, us: row["flops"] / us / 1e6)
    figure.axes[0].set_xlabel("TFLOP/s of selected pairs")
    written.append(_saved(figure, path, "_tflops"))

    found = fits(rows)
    if found:
        figure = Figure(figsize=(8, 6), layout="tight")
        axes = figure.subplots()
        for fit in found:
            density = [row["density"] for row in fit.rows]
            (line,) = axes.plot(
                density, [row["us"][OURS]["median"] for row in fit.rows], "o-", label=fit.name
            )
            law = [row["us"][OURS]["median"] * (percent_of_law(row) or 0) / 100 for row in fit.rows]
            axes.plot(density, law, ":", color=line.get_color())
        axes.set(xscale="log", yscale="log", xlabel="density (selected pairs of all pairs)")
        axes.set_ylabel("us (dotted: density x the fastest dense time)")
        axes.legend(fontsize="x-small")
        written.append(_saved(figure, path, "_density"))
    return written


def _saved(figure: Any, path: Path, suffix: str) -> Path:
    target = path.with_stem(path.stem + suffix)
    figure.savefig(target, dpi=150)
    return target


def _bars(
    axes: Any, rows: list[Row], sides: list[str], value: Callable[[Row, float], float]
) -> None:
    """A bar for every side of every row, from the least to the greatest round as whiskers."""
    height = 0.8 / len(sides)
    for index, side in enumerate(sides):
        shown = [(n, row, row["us"][side]) for n, row in enumerate(rows) if side in row["us"]]
        middles = [value(row, us["median"]) for _, row, us in shown]
        ends = [
            sorted(value(row, us[end]) for end in ("least", "greatest")) for _, row, us in shown
        ]
        spread = [
            [middle - low for middle, (low, _) in zip(middles, ends, strict=True)],
            [high - middle for middle, (_, high) in zip(middles, ends, strict=True)],
        ]
        places = [n + index * height for n, _, _ in shown]
        axes.barh(places, middles, height, xerr=spread, label=side)
    axes.set_yticks(
        [n + 0.4 - height / 2 for n in range(len(rows))],
        [
            row["name"] + ("" if "gpu_us" in row["us"][OURS] else f", {row['threads']} threads")
            for row in rows
        ],
    )
    axes.invert_yaxis()
    axes.legend()
