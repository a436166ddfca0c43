"""The bsk command: what it prints, what it writes, how it exits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from blackwell_sparsek import cli
from blackwell_sparsek.bench import cases, peers, runner, tables
from blackwell_sparsek.commands import doctor, validate


def bsk(*arguments: str, env: dict[str, str] | None = None):
    return CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "200", **(env or {})})


def test_help_lists_the_commands() -> None:
    result = bsk("--help")
    assert result.exit_code == 0
    for name in ("doctor", "validate", "bench", "mask"):
        assert name in result.output


def test_help_loads_no_subcommand() -> None:
    """So that it stays quick whatever the subcommands import."""
    code = (
        "import sys, time, torch, blackwell_sparsek\n"
        "start = time.perf_counter()\n"
        "from blackwell_sparsek import cli\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0\n"
        "print(time.perf_counter() - start)\n"
        "loaded = [m for m in sys.modules if m.startswith(('blackwell_sparsek.commands.',"
        " 'blackwell_sparsek.migrate', 'blackwell_sparsek.bench', 'libcst', 'matplotlib'))]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.0, "0.5 s on a quiet machine"


def test_the_installed_script_runs() -> None:
    script = Path(sys.executable).with_name("bsk")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "blackwell_sparsek"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == runner.get_build_info()["version"]


def test_an_unknown_command_is_an_error() -> None:
    result = bsk("nonsense")
    assert result.exit_code == 2
    assert "nonsense" in result.output


def test_a_command_of_a_missing_module_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli._COMMANDS, "ghost", ("blackwell_sparsek.no_such.module", "x", "Boo."))
    assert "ghost" not in bsk("--help").output
    assert bsk("ghost").exit_code == 2


def test_a_plain_function_becomes_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `bsk migrate` and others rely on: module and function name are all that it takes."""
    monkeypatch.setitem(
        cli._COMMANDS, "again", ("blackwell_sparsek.commands.validate", "validate", "Again.")
    )
    result = bsk("again", "--help")
    assert result.exit_code == 0 and "--cases" in result.output


# ---- doctor -------------------------------------------------------------------------------------


def test_doctor_finds_that_attention_runs() -> None:
    result = bsk("doctor")
    assert result.exit_code == 0, result.output
    for part in ("torch", "cpu_attention_forward", "kernel cache", "Attention runs here."):
        assert part in result.output


def test_doctor_json() -> None:
    result = bsk("doctor", "--json")
    report = json.loads(result.output)
    assert result.exit_code == 0 and report["attention_runs"] is True
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["attention on cpu"]["state"] == "ok"
    assert found["option fallback"]["text"] == "error (from default)"
    assert torch.__version__ in found["torch"]["text"]
    assert {finding["state"] for finding in found.values()} <= {"ok", "info", "warning", "problem"}


def test_doctor_tells_where_an_option_comes_from() -> None:
    code = "from blackwell_sparsek.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "BSK_FALLBACK": "sdpa", "BSK_BUILD_DIR": "/proc/no/such"},
    )
    assert done.returncode == 0, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert "sdpa" in found["option fallback"]["text"]
    assert "BSK_FALLBACK" in found["option fallback"]["text"]
    assert found["kernel cache"]["state"] == "warning"
    assert "BSK_BUILD_DIR" in found["kernel cache"]["remedy"]


def test_a_wrong_environment_is_named_once() -> None:
    for command, code in (("doctor", 1), ("cache", 2), ("validate", 2), ("compile", 2)):
        done = subprocess.run(
            [sys.executable, "-m", "blackwell_sparsek", command],
            env={**os.environ, "BSK_DEBUG": "maybe", "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        assert output.count("BSK_DEBUG: must be a boolean; got 'maybe'. Use '1' or '0'.") == 1
        assert "Traceback" not in output and "report this" not in output


def test_doctor_says_why_a_kernel_is_not_for_here() -> None:
    found = {finding.name: finding.text for finding in doctor.examine()}
    if not torch.cuda.is_available():
        text = found["kernel sm90_attention_forward"]
        assert text.endswith("here: needs a GPU of compute capability 9.0")


def test_doctor_exits_1_where_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: object, **kwargs: object) -> torch.Tensor:
        return torch.zeros(1, 2, 100, 64)

    monkeypatch.setattr("blackwell_sparsek.attention_forward", wrong)
    result = bsk("doctor")
    assert result.exit_code == 1
    assert "WRONG" in result.output and "runs on nothing" in result.output


def test_a_failing_check_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[doctor.Finding]:
        raise OSError("disk on fire")

    monkeypatch.setattr(doctor, "cache_findings", broken)
    findings = {finding.text: finding.state for finding in doctor.examine()}
    assert findings["this check failed: OSError: disk on fire"] == "problem"


# ---- validate -----------------------------------------------------------------------------------


def test_validate_smoke() -> None:
    result = bsk("validate", "--device", "cpu", "-v")
    assert result.exit_code == 0, result.output
    assert f"{len(cases.SMOKE)} right, 0 wrong, 0 not supported, on cpu" in result.output
    assert result.output.count("allowed") == len(cases.SMOKE)


def test_validate_sees_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from blackwell_sparsek import attention_forward

    def slightly_wrong(*args: object, **kwargs: object) -> torch.Tensor:
        output = attention_forward(*args, **kwargs)
        output[0, 0, -1, 0] += 1e-3
        return output

    monkeypatch.setattr("blackwell_sparsek.attention_forward", slightly_wrong)
    result = bsk("validate", "--cases", "b1_h4_s200_d64_fp32_causal", "--device", "cpu")
    assert result.exit_code == 1
    assert "wrong" in result.output and "(0, 0, 199, 0)" in result.output


def test_validate_sees_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "blackwell_sparsek.attention_forward",
        lambda Q, K, V, **options: torch.full_like(Q, torch.nan),
    )
    assert validate.check(cases.SMOKE[0], "cpu")[0] == "wrong"


def test_validate_of_an_unknown_case() -> None:
    result = bsk("validate", "--cases", "nonsense")
    assert result.exit_code == 2
    assert "cases: must be smoke, edge, sweep" in result.output


# ---- bench --------------------------------------------------------------------------------------


def test_bench_writes_figures_and_a_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (
        cases.Case(q_heads=2, q_len=64),
        cases.Case(q_heads=2, q_len=256, blocks=cases.Blocks(density=0.5, size=(64, 64))),
    )
    monkeypatch.setitem(tables.TABLES, "tiny", tables.Table(small, small[:1], "two"))
    monkeypatch.setattr(runner, "_ROUND_US", 100.0)
    before = torch.get_num_threads()
    figures, chart = tmp_path / "figures.json", tmp_path / "chart.png"
    result = bsk(
        *("bench", "--cases", "tiny", "--device", "cpu", "--repetitions", "2"),
        *("--threads", "1,2", "--json", str(figures), "--plot", str(chart)),
    )
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == before
    written = json.loads(figures.read_text())
    for key in ("date", "command", "commit", "device", "torch", "version"):
        assert key in written["environment"]
    rows = written["rows"]
    assert [(row["name"], row["threads"]) for row in rows] == [
        (case.name, threads) for case in small for threads in (1, 2)
    ]
    for row in rows:
        assert row["correct"]
        assert row["us"]["blackwell_sparsek"]["rounds"] == 2
        assert row["us"]["sdpa"]["median"] > 0
        assert row["name"] in result.output
    assert "sdpa_dense" in rows[2]["us"] and "sdpa_dense" not in rows[0]["us"]
    assert rows[2]["density"] == 0.5
    assert chart.read_bytes().startswith(b"\x89PNG")
    one_line = [line for line in result.output.splitlines() if small[0].name in line]
    assert len(one_line) >= 2, "one line a case and thread count"


def test_bench_exits_1_on_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    only = (cases.Case(q_heads=1, q_len=32),)
    monkeypatch.setitem(tables.TABLES, "tiny", tables.Table(only, only, "one"))
    wrong = peers.Peer(peers.OURS, lambda Q, K, V: torch.zeros_like(Q))
    monkeypatch.setattr(runner, "ours", lambda inputs: wrong)
    result = bsk("bench", "--cases", "tiny", "--device", "cpu", "--repetitions", "1")
    assert result.exit_code == 1
    assert "differs from fp64" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cases", "nonsense"), "cases: must name a table"),
        (("--threads", "two"), "threads: must be whole numbers"),
        (("--threads", "0"), "threads: must be whole numbers"),
        (("--device", "tpu"), "device: must be cpu, cuda or cuda:index; got 'tpu'"),
        (("--device", "cuda:99"), "device: must exist; got 'cuda:99'"),
        (("--plot", "chart.txt"), "plot: must end in .png"),
        (("--plot", "/no/such/folder/chart.png"), "plot: must be a file in a folder"),
        (("--json", "/no/such/folder/figures.json"), "json: must be a file in a folder"),
        (("--json", "/"), "json: must be a file in a folder"),
        (("--columns", "case,us"), "columns: is for --markdown"),
    ],
)
def test_bench_wrong_options(arguments: tuple[str, ...], message: str) -> None:
    result = bsk("bench", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_bench_lists_its_cases() -> None:
    output = bsk("bench", "--list").output
    for name, table in tables.TABLES.items():
        assert f"{name}:" in output
        assert all(case.name in output for case in table.cases)


# ---- mask ---------------------------------------------------------------------------------------


def test_mask_show_draws_a_band(tmp_path: Path) -> None:
    chart = tmp_path / "mask.svg"
    result = bsk("mask", "show", "window", "--q-len", "512", "--left", "127", "--plot", str(chart))
    assert result.exit_code == 0, result.output
    drawn = [line for line in result.output.splitlines() if line.startswith("|")]
    assert drawn == ["|█   |", "|██  |", "| ██ |", "|  ██|"]
    assert "density 0.4375" in result.output
    assert chart.read_text().startswith("<?xml")


def test_mask_show_of_a_file(tmp_path: Path) -> None:
    dense = torch.tensor([[[[True, False], [True, True]], [[False, False], [True, True]]]])
    torch.save(dense, tmp_path / "mask.pt")
    result = bsk("mask", "show", "--file", str(tmp_path / "mask.pt"), "--head", "1")
    lines = result.output.splitlines()
    assert [line for line in lines if line.startswith("|")] == ["|  |", "|██|"]
    assert lines[-1].split()[:2] == ["1", "0.5000"] and lines[-1].split()[-1] == "1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("random", "--density", "25"), "density: must lie in [0, 1]; got 25.0"),
        (("window", "--block-q", "32"), "block_size: must be in"),
        (("document", "--kv-len", "5"), "kv-len: must be q-len"),
        (("--file", "/no/such/file"), "No such file"),
        (("--file", "/dev/null"), "file: must be one that torch.save wrote; got /dev/null: it is"),
        (("--file", __file__), "file: must be one that torch.save wrote"),
    ],
)
def test_mask_show_wrong_options(arguments: tuple[str, ...], message: str) -> None:
    result = bsk("mask", "show", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), runner.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        _ = 1 / 0
    assert torch.get_num_threads() == before
