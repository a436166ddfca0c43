"""What the bench makes of figures: table, Markdown, charts, fits, targets; all on made-up figures."""

import importlib.util
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from blackwell_sparsek import cli
from blackwell_sparsek.bench import first_call, laws, report
from blackwell_sparsek.bench.tables import TABLES

_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "targets.py"


@pytest.fixture(scope="module")
def targets():
    spec = importlib.util.spec_from_file_location("bench_targets", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def side(median: float, **clocks: float) -> dict:
    return {
        "median": median,
        "least": 0.9 * median,
        "greatest": 1.2 * median,
        "rounds": 5,
        "method": "graph",
        "gpu_us": median,
        **clocks,
    }


def row(name: str, us: dict[str, dict], flops: float = 1e9, **more) -> dict:
    return {
        "name": name,
        "case": {"blocks": None},
        "threads": 8,
        "plan": "a kernel",
        "pairs": 1,
        "density": 1.0,
        "flops": flops,
        "bytes": 2e6,
        "correct": True,
        "max_error": 1e-4,
        "us": us,
        "not_run": {},
        **more,
    }


def result_of(*rows: dict) -> dict:
    environment = {
        "device": "a GPU",
        "torch": "2",
        "commit": "abc",
        "date": "now",
        "command": "bsk",
    }
    peaks = [{"threads": 8, "tflops": 1000.0, "meaning": "data sheet"}]
    return {
        "environment": environment,
        "device": "cuda",
        "peaks": peaks,
        "rows": list(rows),
        "skipped": [{"name": "another", "reason": "no time"}],
    }


LATENCY = row(
    "b1_h8_s512_d64_fp16",
    {
        "blackwell_sparsek": side(
            4.0, cold_us=5.0, overlapped_us=3.5, event_us=9.0, host_us=5.0, host_out_us=3.0
        ),
        "sdpa_cudnn": side(10.0, cold_us=12.0, event_us=25.0, host_us=20.0),
        "sdpa_flash": side(9.0, cold_us=14.0, event_us=27.0, host_us=18.0),
    },
    control={"us": 0.92, "ctas": 128, "threads": 384},
    not_run={"xformers": "ModuleNotFoundError: No module named 'xformers'"},
)


def sweep(a: float, b: float, dense: float = 1000.0, size: int = 128) -> list[dict]:
    """Rows that take exactly a + b * density * dense."""
    return [
        row(
            f"b1_h16_s16384_d128_bf16_block{size}_random_density{density}_per_qhead",
            {
                "blackwell_sparsek": side(a + b * density * dense, host_us=5.5),
                "blackwell_sparsek_dense": side(dense, host_us=5.0),
                "sdpa_cudnn_dense": side(1.1 * dense),
                "flex": side(2.5 * (a + b * density * dense)),
            },
            density=density,
            case={"blocks": {"pattern": "random", "density": density, "size": [size, size]}},
        )
        for density in (0.5, 0.11, 0.25)
    ]


# ---- laws ---------------------------------------------------------------------------------------


def test_the_fit_finds_what_was_put_in() -> None:
    rows = [*sweep(20.0, 1.25), *sweep(5.0, 1.5, size=64)]
    one, other = laws.fits(rows)
    assert one.name == "b1_h16_s16384_d128_bf16_block128_random_per_qhead"
    assert (one.a_us, one.b) == pytest.approx((20.0, 1.25))
    assert (other.a_us, other.b) == pytest.approx((5.0, 1.5))
    assert [r["density"] for r in one.rows] == [0.11, 0.25, 0.5]
    assert not laws.fits(rows[:2]), "two densities make no fit"


def test_percent_of_the_law_takes_the_fastest_dense_time() -> None:
    half = sweep(0.0, 1.25)[0]
    assert laws.percent_of_law(half) == pytest.approx(80.0)
    half["us"]["sdpa_cudnn_dense"] = side(500.0)
    assert laws.percent_of_law(half) == pytest.approx(40.0)
    assert laws.percent_of_law(half, "flex") == pytest.approx(16.0)
    assert laws.percent_of_law(LATENCY) is None


# ---- report -------------------------------------------------------------------------------------


def printed(result: dict) -> str:
    stream = io.StringIO()
    report.print_result(result, Console(file=stream, width=80))
    return stream.getvalue()


def test_one_line_a_case_with_every_figure() -> None:
    text = printed(result_of(LATENCY))
    header, line = text.splitlines()[:2]
    cells = dict(zip(header.replace("host out=", "out").split(), line.split(), strict=False))
    assert cells["case"] == "b1_h8_s512_d64_fp16" and cells["us"] == "4.0"
    assert cells["spread"] == "3.6-4.8" and cells["cold"] == "5.0" and cells["empty"] == "0.92"
    assert "250.0" in line, "TFLOP/s"
    assert "25" in line.split(), "% peak"
    for ratio in ("2.50", "2.25", "3.60", "6.00"):  # cuDNN, flash, host, host out=
        assert ratio in line.split()
    assert "threads" not in header and "% law" not in header
    assert "xformers not timed in 1 of 1 cases: ModuleNotFoundError" in text
    assert "not run: another: no time" in text


def test_a_wrong_result_shows() -> None:
    assert "WRONG" in printed(result_of({**LATENCY, "correct": False}))
    assert "WRONG" not in printed(result_of(LATENCY))


def test_notes_tell_fits_and_masks() -> None:
    rows = sweep(20.0, 1.25)
    rows[0]["mask_building"] = {
        "from_dense": {"gpu_us": 4.0, "host_us": 30.0, "share": 0.02},
        "flex_create_block_mask": {"error": "ValueError: too much"},
    }
    text = "\n".join(report.notes(result_of(*rows)))
    assert "us = 20.0 + 1.25 x density x dense; of the law at 0.50: 78%, 0.25: 75%" in text
    assert "mask by from_dense: 4.0 us GPU, 30.0 us host, 2.0% of the attention" in text
    assert "mask by flex_create_block_mask: ValueError: too much" in text


def test_markdown_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(result_of(LATENCY)))
    done = CliRunner().invoke(cli.app, ["bench", "--markdown", str(path)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("| case | us | spread | cold |")
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert lines[2].startswith("| b1_h8_s512_d64_fp16 | 4.0 |")
    assert "a GPU, torch 2, commit abc" in lines[-1]


def test_markdown_of_some_columns(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(result_of(LATENCY)))
    command = ["bench", "--markdown", str(path), "--columns"]
    done = CliRunner().invoke(cli.app, [*command, "case, us, x cudnn"])
    lines = done.output.splitlines()
    assert lines[:3] == [
        "| case | us | x cudnn |",
        "|---|---:|---:|",
        "| b1_h8_s512_d64_fp16 | 4.0 | 2.50 |",
    ]
    done = CliRunner().invoke(cli.app, [*command, "speed"])
    assert done.exit_code == 2 and "columns: must be of case, us" in done.output


@pytest.mark.parametrize("content", [None, "not json", "{}"])
def test_markdown_of_no_figures(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_text(content)
    done = CliRunner().invoke(cli.app, ["bench", "--markdown", str(path)])
    assert done.exit_code == 2
    assert "markdown: must be a JSON file of bsk bench" in done.output


def test_the_figures_in_git_can_be_printed() -> None:
    found = list((_SCRIPT.parent / "results").glob("*.json"))
    assert found
    for path in found:
        assert report.markdown(json.loads(path.read_text())).startswith("| case |")


def test_charts(tmp_path: Path) -> None:
    written = report.plot([LATENCY], tmp_path / "a.png")
    assert [path.name for path in written] == ["a.png", "a_tflops.png"]
    written = report.plot(sweep(20.0, 1.25), tmp_path / "b.png")
    assert [path.name for path in written] == ["b.png", "b_tflops.png", "b_density.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


# ---- targets ------------------------------------------------------------------------------------


def words(targets, figures: dict) -> dict[str, tuple[str, float | None]]:
    verdicts = [targets.verdict(target, figures) for target in targets.TARGETS]
    return {each.target.case: (each.word, each.measured) for each in verdicts}


def test_targets_name_cases_that_are_run(targets) -> None:
    """A misspelled name would never be measured."""
    asked = set()

    class Asked(dict):
        def get(self, key, default=None):
            asked.add(key)
            return default

    for target in targets.TARGETS:
        assert targets.verdict(target, Asked()).word == "not measured"
    every = {case.name for table in TABLES.values() for case in table.cases}
    assert asked - every == {"first_call", "wheel_mb"}


def test_verdicts(targets) -> None:
    found = words(targets, {LATENCY["name"]: LATENCY})
    name = LATENCY["name"]
    assert found[name] == ("must", 4.0)
    assert found[f"{name}: fastest SDPA over ours, warm"] == ("goal", 2.25)
    assert found[f"{name}: fastest SDPA over ours, cold"] == ("goal", 2.4)
    assert found[f"{name}: best figure known (9.0 us) over ours"] == ("goal", 2.25)
    assert found["host issue cost, SDPA's over ours, allocating"] == ("must", 3.6)
    calls = "host issue cost, SDPA's over ours, out= or prepared"
    assert found[calls] == ("goal", 6.0)
    prepared = json.loads(json.dumps(LATENCY))
    prepared["us"]["blackwell_sparsek"]["host_prepared_us"] = 2.0
    assert words(targets, {name: prepared})[calls] == ("goal", 9.0)
    assert found["event pair around one eager call, S512, SDPA's over ours"][0] == "must"
    assert found["wheel"] == ("not measured", None)
    slow = json.loads(json.dumps(LATENCY))
    slow["us"]["blackwell_sparsek"]["gpu_us"] = 5.1
    assert words(targets, {name: slow})[name] == ("MISSED", 5.1)


def test_a_wrong_result_meets_no_target(targets) -> None:
    found = words(targets, {LATENCY["name"]: {**LATENCY, "correct": False}})
    assert found[LATENCY["name"]][0] == "MISSED"
    assert "goal" not in {word for word, _ in found.values()}


def test_sparse_targets(targets) -> None:
    rows = {r["name"]: r for r in sweep(20.0, 1.25)}
    eleven = rows["b1_h16_s16384_d128_bf16_block128_random_density0.11_per_qhead"]
    eleven["flops"] = 505e6 * eleven["us"]["blackwell_sparsek"]["median"]
    eleven["mask_building"] = {"from_dense": {"share": 0.02}, "top_k": {"share": 0.2}}
    found = words(targets, rows)
    assert found[eleven["name"]] == ("must", pytest.approx(505.0))
    assert found[f"{eleven['name']}: FlexAttention's time over ours"] == ("goal", 2.5)
    share = "mask by {}, share of the attention, S=16k density .11"
    assert found[share.format("from_dense")] == ("goal", 2.0)
    assert found[share.format("top_k")] == ("MISSED", 20.0)


def test_a_goal_may_have_its_own_measure(targets) -> None:
    name = "b1_h16_s2048_d128_bf16_block128_random_density0.25_per_qhead"
    us = {"blackwell_sparsek": side(30.0), "blackwell_sparsek_dense": side(100.0)}
    label = f"{name}: our dense time over ours (goal: % of the law)"
    found = words(targets, {name: row(name, us, density=0.25)})
    assert found[label] == ("goal", pytest.approx(100 / 30))
    us["blackwell_sparsek"] = side(50.0)
    assert words(targets, {name: row(name, us, density=0.25)})[label] == ("must", 2.0)


def test_the_script(targets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, wheel = tmp_path / "figures.json", tmp_path / "a.whl"
    figures.write_text(json.dumps(result_of(LATENCY)))
    wheel.write_bytes(bytes(20_000_000))
    assert targets.main([str(figures), "--wheel", str(wheel), "--measured"]) == 0
    text = capsys.readouterr().out
    assert "b1_h8_s512_d64_fp16" in text and "wheel" in text and "s16384" not in text
    late = json.loads(json.dumps(LATENCY))
    late["us"]["blackwell_sparsek"]["gpu_us"] = 7.0
    figures.write_text(json.dumps(result_of(late)))
    assert targets.main([str(figures)]) == 1
    assert "MISSED" in capsys.readouterr().out


# ---- first call ---------------------------------------------------------------------------------


def test_first_calls_are_those_of_new_processes() -> None:
    found = first_call.measure("cpu")
    for name in ("documented", "another"):
        assert 0 < found[name]["seconds"] < 30, found
        assert found[name]["plan"].startswith("cpu_attention_forward")
        assert found[name]["correct"] is True and found[name]["origin"] is None


def test_a_first_call_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_call, "CASES", {"documented": {"head_dim": 7}})
    assert "head_dim" in first_call.measure("cpu")["documented"]["error"]
    slow = first_call.measure("cpu", timeout_s=0.01)
    assert slow["documented"] == {"error": "no end within 0.01 s"}
