"""The GPU side of the bench, without a GPU: a clock of the test's own, CPU tensors."""

import contextlib
import dataclasses
import json
import math
import subprocess
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from typer.testing import CliRunner

from blackwell_sparsek import _C, cli, core
from blackwell_sparsek.attention import plan
from blackwell_sparsek.bench import (
    gpu_runner,
    gpu_state,
    mask_building,
    peers,
    runner,
    session,
    tables,
)
from blackwell_sparsek.bench.cases import Blocks, Case, varied
from blackwell_sparsek.bench.checking import Check
from blackwell_sparsek.bench.gpu_runner import Limits
from blackwell_sparsek.bench.torch_attention import allowed_rows
from blackwell_sparsek.commands import bench


class FakeClock:
    """Says that a call of a name takes a given time, and remembers what it was asked."""

    class CaptureError(RuntimeError):
        pass

    def __init__(self, us: float = 10.0) -> None:
        self.us = us
        self.captures: list[tuple[int, int, bool]] = []  # nodes, distinct calls, launches overlap
        self.sampled: list[int] = []
        self.overlap = True

    def capture(self, calls, nodes):
        calls[0]()
        index = len(self.captures)
        self.captures.append((nodes, len(calls), self.overlap))

        def sample_us() -> float:
            self.sampled.append(index)
            return self.us

        return SimpleNamespace(nodes=nodes, sample_us=sample_us, replay=lambda: None)

    def spun_event_us(self, call) -> float:
        return self.us + 1

    def eager_event_us(self, call) -> float:
        return self.us + 5

    def host_us(self, call, calls) -> float:
        return 3.0

    def empty_kernel(self, ctas, threads):
        return lambda: None

    def steady_us(self, graph, seconds, us, query) -> float:
        query()
        return us * 1.1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(
        _C, "set_programmatic_dependent_launch", lambda on: setattr(fake, "overlap", on)
    )
    return fake


def without(*names: str):
    """Flex would compile for seconds."""
    return Limits(seconds=1.0, wanted=lambda name: name not in ("flex", *names))


CASE = Case(q_heads=4, q_len=128, head_dim=64, dtype="bf16")
BLOCKS = dataclasses.replace(CASE, q_len=256, kv_len=256, blocks=Blocks(density=0.5, size=(64, 64)))


def test_a_row_has_every_clock(clock: FakeClock) -> None:
    row = gpu_runner.run_case(CASE, "cpu", without(), clock)
    ours = row["us"]["blackwell_sparsek"]
    assert row["correct"] and row["name"] == CASE.name
    assert ours["method"] == "graph" and ours["rounds"] == 5
    assert ours["median"] == ours["gpu_us"] == ours["overlapped_us"] == ours["cold_us"] == 10.0
    assert (ours["spun_us"], ours["event_us"]) == (11.0, 15.0)
    assert ours["host_us"] == ours["host_out_us"] == ours["host_prepared_us"] == 3.0
    assert ours["nodes"] == 200 and ours["replays"] >= 30
    assert "host_out_us" not in row["us"]["sdpa_flash"]
    assert row["case"]["q_len"] == 128 and row["flops"] == 4 * 4 * 128 * 128 * 64


def test_the_headline_has_no_overlap_and_the_switch_is_put_back(clock: FakeClock) -> None:
    gpu_runner.run_case(CASE, "cpu", without("sdpa_flash"), clock)
    headline, overlapped, cold = clock.captures[:3]
    assert [headline[2], overlapped[2], cold[2]] == [False, True, False]
    assert clock.overlap
    sets = math.ceil(250e6 / (3 * 4 * 128 * 64 * 2))
    assert cold[1] == sets and cold[0] >= sets and headline[1] == 1


def test_a_long_case_keeps_its_time(clock: FakeClock) -> None:
    clock.us = 20_000.0
    limits = dataclasses.replace(without("sdpa_flash"), seconds=2.0)
    row = gpu_runner.run_case(CASE, "cpu", limits, clock)
    ours = row["us"]["blackwell_sparsek"]
    assert "cold_us" not in ours, "reading the inputs is a small part of a long call"
    control = len(clock.captures) - 1
    nodes = [clock.captures[index][0] for index in clock.sampled if index != control]
    spent = sum(nodes) * clock.us / 1e6
    assert spent < 1.5 * 2.0
    assert ours["nodes"] >= 3


def test_missing_peers_say_why(clock: FakeClock) -> None:
    row = gpu_runner.run_case(CASE, "cpu", without(), clock)
    assert "sdpa_cudnn" in row["not_run"], "cuDNN has no CPU"
    assert "flash_attention_3" in row["not_run"]
    found = gpu_runner.run_case(dataclasses.replace(CASE, mask="bool"), "cpu", without(), clock)
    assert found["not_run"].keys() >= {"sdpa_cudnn", "sdpa_efficient"}
    assert "sdpa" not in row["us"], "unforced, it may take any backend"


def test_a_wrong_peer_is_not_timed(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def peers_of(case, inputs, wanted):
        return peers.Peers([peers.Peer("liar", lambda Q, K, V: torch.ones_like(Q))], {})

    monkeypatch.setattr(gpu_runner, "gpu_peers", peers_of)
    row = gpu_runner.run_case(CASE, "cpu", without(), clock)
    assert "liar" not in row["us"] and "differs from fp64" in row["not_run"]["liar"]


def test_a_backends_warnings_tell_its_reasons(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(Q, K, V):
        warnings.warn("it takes no mask (Triggered internally at x.cpp:1.)", stacklevel=1)
        raise RuntimeError("No available kernel.")

    found = peers.Peers([peers.Peer("choosy", refuses)], {})
    monkeypatch.setattr(gpu_runner, "gpu_peers", lambda *_: found)
    row = gpu_runner.run_case(CASE, "cpu", without(), clock)
    told = row["not_run"]["choosy"]
    assert told == "RuntimeError: No available kernel. (it takes no mask)"


def test_variants_are_sides_of_their_own(clock: FakeClock) -> None:
    """Each runs the kernel of its name, beside the one that is chosen."""
    before = core.get_default_config()
    kernels = ("cpu_attention_forward", "cpu_reference", "sm90_attention_forward")
    limits = dataclasses.replace(without("sdpa_flash"), variants=kernels)
    row = gpu_runner.run_case(CASE, "cpu", limits, clock)
    assert set(row["us"]) == {
        "blackwell_sparsek",
        "blackwell_sparsek:cpu_attention_forward",
        "blackwell_sparsek:cpu_reference",
    }
    assert "sm90_attention_forward" in row["not_run"]["blackwell_sparsek:sm90_attention_forward"]
    assert core.get_default_config() == before
    inputs = CASE.make()
    for peer in peers.variants(inputs, kernels[:2]):
        with peer.forced():
            assert plan(*inputs[:3]).startswith(peer.kernel)


def test_what_cannot_be_captured_is_timed_by_events(clock: FakeClock) -> None:
    def refuse(calls, nodes):
        raise clock.CaptureError("it synchronises")

    clock.capture = refuse
    row = gpu_runner.run_case(CASE, "cpu", without("sdpa_flash"), clock)
    ours = row["us"]["blackwell_sparsek"]
    assert ours["method"] == "event" and ours["median"] == 11.0
    assert "it synchronises" in ours["graph_error"]


def test_block_masks_bring_the_dense_times_and_the_building(clock: FakeClock) -> None:
    row = gpu_runner.run_case(BLOCKS, "cpu", without(), clock)
    assert {"blackwell_sparsek_dense", "sdpa_flash_dense"} <= set(row["us"])
    assert row["density"] == 0.5
    building = row["mask_building"]
    assert building["from_dense"]["share"] == building["top_k"]["share"] == 1.0
    assert building["from_dense"]["gpu_us"] == 10.0 and building["top_k"]["host_us"] == 3.0
    assert building["flex_create_block_mask"]["wall_us"] > 0
    assert building["flex_from_kv_blocks"]["wall_us"] > 0


@pytest.mark.parametrize("pattern", ["window", "document"])
def test_other_patterns_time_their_own_builder(clock: FakeClock, pattern: str) -> None:
    case = dataclasses.replace(BLOCKS, blocks=Blocks(pattern, window=100, size=(64, 64)))
    found = mask_building.measure(case, case.make(), 20.0, clock)
    assert found[pattern]["share"] == 0.5 and "top_k" not in found
    assert "wall_us" in found["flex_create_block_mask"] and "flex_from_kv_blocks" not in found


def test_steady_state_tells_clock_and_power(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_state, "gpu_state", lambda: {"sm_mhz": 1500.0})
    limits = dataclasses.replace(without("sdpa_flash"), steady_seconds=2.0)
    steady = gpu_runner.run_case(CASE, "cpu", limits, clock)["steady_state"]
    assert steady["blackwell_sparsek"]["us"] == pytest.approx(11.0)
    assert steady["blackwell_sparsek"]["gpu"] == {"sm_mhz": 1500.0}


def test_the_control_has_the_plans_grid(clock: FakeClock) -> None:
    text = "sm90<x>: 128 tasks of 64 query rows, steps of 128 keys, 384 threads, 200 bytes"
    assert gpu_runner._control(text, clock) == {"ctas": 128, "threads": 384, "us": 10.0}
    shared = text.replace("tasks of 64", "CTAs with up to 12 tiles of 64")
    assert gpu_runner._control(shared, clock) == {"ctas": 128, "threads": 384, "us": 10.0}
    assert "names no grid" in gpu_runner._control("something", clock)["error"]


def test_gpu_state_reads_nvidia_smi() -> None:
    def run(command, **_):
        assert command[0] == "nvidia-smi"
        return SimpleNamespace(stdout="1980, 1980, 123.45, 31\n")

    state = gpu_state.gpu_state(run)
    assert state == {
        "sm_mhz": 1980.0,
        "max_sm_mhz": 1980.0,
        "power_w": 123.45,
        "temperature_c": 31.0,
    }
    assert gpu_state.gpu_state(lambda *_, **__: SimpleNamespace(stdout="[N/A], 1, 2, 3")) is None

    def slow(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    assert gpu_state.gpu_state(slow) is None


# ---- the check ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_check_holds_long_rows_to_their_own_size(dtype: str) -> None:
    case = Case(q_heads=2, q_len=2048, head_dim=64, dtype=dtype)
    inputs = case.make()
    check = Check(case, inputs)
    right = peers.ours(inputs).bound(inputs)()
    assert check(right)[0]
    assert not check(torch.zeros_like(right))[0]
    assert not check(right * 1.2)[0]
    right[0, 1, 0, 5] = torch.nan
    assert not check(right)[0]


# ---- FlexAttention's masks ----------------------------------------------------------------------


BY_LISTS = [
    dataclasses.replace(BLOCKS, is_causal=True),
    BLOCKS,
    dataclasses.replace(BLOCKS, q_len=200, kv_len=200),
]
BY_RULES = [
    Case(q_heads=2, q_len=200, window=(60, 0), is_causal=True),
    Case(q_heads=2, q_len=100, kv_len=300, window=(60, 20)),
    Case(q_heads=2, q_len=300, blocks=Blocks("window", window=70, sink=5, size=(64, 64))),
    Case(q_heads=2, q_len=300, blocks=Blocks("document", window=90), is_causal=True),
]
FLEX = Limits(seconds=1.0, wanted=lambda name: name == "flex")


@pytest.mark.parametrize("case", BY_RULES, ids=lambda case: case.name)
def test_flex_is_timed_where_its_result_is_right(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    """Uncompiled: it asks the rules alone, whatever the lists of blocks."""
    monkeypatch.setattr(peers, "_compiled_flex", lambda: flex_attention)
    row = gpu_runner.run_case(case, "cpu", FLEX, clock)
    assert row["us"]["flex"]["gpu_us"] == 10.0, row["not_run"]
    other = dataclasses.replace(case, window=(3, 0), is_causal=True, blocks=None)
    wrong = peers.flex_block_mask(other, other.make())
    monkeypatch.setattr(peers, "flex_block_mask", lambda *_: wrong)
    row = gpu_runner.run_case(case, "cpu", FLEX, clock)
    assert "flex" not in row["us"] and "differs from fp64" in row["not_run"]["flex"]


@pytest.mark.slow
def test_flex_compiled_takes_lists_and_another_density_without_compiling_anew(
    clock: FakeClock,
) -> None:
    torch._dynamo.utils.counters.clear()
    for density in (0.5, 0.25):
        blocks = dataclasses.replace(BLOCKS.blocks, density=density)
        case = dataclasses.replace(BY_LISTS[0], blocks=blocks)
        with torch.no_grad():
            row = gpu_runner.run_case(case, "cpu", FLEX, clock)
        assert row["us"]["flex"]["gpu_us"] == 10.0, row["not_run"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("case", [*BY_LISTS, *BY_RULES], ids=lambda case: case.name)
def test_flex_gets_the_same_mask(case: Case) -> None:
    """Its BlockMask, asked pair by pair, allows what the case allows."""
    inputs = case.make()
    mask = peers.flex_block_mask(case, inputs)
    assert mask.seq_lengths == (case.q_len, case.kv_len)
    allowed = allowed_rows(case, inputs, torch.arange(case.q_len))
    heads = max(allowed.shape[1], mask.shape[1])
    block_q, block_k = mask.BLOCK_SIZE
    found = torch.zeros(heads, case.q_len, case.kv_len, dtype=torch.bool)
    for head in range(heads):
        own = min(head, mask.kv_num_blocks.shape[1] - 1)
        lists = (
            (mask.kv_num_blocks, mask.kv_indices, mask.mask_mod),
            (mask.full_kv_num_blocks, mask.full_kv_indices, None),
        )
        for counts, indices, mod in lists:
            for row in range(counts.shape[-1]):
                for block in indices[0, own, row, : counts[0, own, row]].tolist():
                    q = torch.arange(row * block_q, min((row + 1) * block_q, case.q_len))
                    k = torch.arange(block * block_k, min((block + 1) * block_k, case.kv_len))
                    pairs = torch.ones(len(q), len(k), dtype=torch.bool)
                    if mod is not None:
                        zero, h = torch.tensor(0), torch.tensor(head)
                        pairs &= mod(zero, h, q[:, None], k[None, :])
                    found[head, q[0] : q[-1] + 1, k[0] : k[-1] + 1] |= pairs
    assert torch.equal(found, allowed[0].expand(heads, -1, -1))


def test_create_block_mask_is_not_tried_where_it_would_not_fit() -> None:
    case = varied(tables.TABLES["sparse"].quick[0], q_len=65536)
    with pytest.raises(ValueError, match="evaluates 68.7 billion pairs"):
        peers.create_flex_block_mask(case, None)


# ---- the session --------------------------------------------------------------------------------


def row_of(case: Case, device: str, limits: Limits) -> dict:
    return {"name": case.name}


def ran(cases, total: float, run_case=row_of, limits: Limits | None = None):
    rows, skipped = [], []

    def done(row, entry) -> None:
        rows.append(row["name"]) if row else skipped.append(entry)

    session.run(cases, "cpu", limits or Limits(), total, done, run_case)
    return rows, skipped


def test_the_estimate_fits_the_time_given() -> None:
    cases = tables.TABLES["small"].quick
    limits = session.fitted(cases, Limits(), 150.0)
    assert session.estimate(cases, limits) <= 150.0 and 0.5 <= limits.seconds <= 6.0
    with pytest.raises(ValueError, match="seconds: must be at least .*got 20. Choose fewer"):
        session.fitted(cases, Limits(), 20.0)


@pytest.mark.parametrize("name", ["small", "long", "decode", "sparse", "masks"])
def test_every_quick_table_fits_170_seconds(name: str) -> None:
    cases = tables.TABLES[name].quick
    limits = session.fitted(cases, Limits(seconds=3.0), 170.0)
    assert session.estimate(cases, limits) <= 170.001


def test_a_run_stops_in_time() -> None:
    cases = tables.TABLES["long"].cases
    limits = Limits(seconds=0.05, wanted=lambda name: False)

    def slow(case, device, limits):
        time.sleep(1.0)
        return {"name": case.name}

    rows, skipped = ran(cases, 3.0, slow, limits)
    assert 1 <= len(rows) <= 2 and len(rows) + len(skipped) == len(cases)
    assert "it may take" in skipped[0]["reason"]


def test_a_failing_case_is_reported_and_the_next_one_runs() -> None:
    cases = tables.TABLES["long"].quick

    def run_case(case, device, limits):
        if case is cases[1]:
            raise RuntimeError("the launch failed")
        return {"name": case.name}

    rows, skipped = ran(cases, 1e6, run_case)
    assert rows == [case.name for case in cases if case is not cases[1]]
    assert skipped == [
        {"name": cases[1].name, "reason": "RuntimeError: the launch failed", "failed": True}
    ]


def test_the_device_switch_takes_a_truth_value() -> None:
    _C.set_programmatic_dependent_launch(False)
    _C.set_programmatic_dependent_launch(True)
    with pytest.raises(ZeroDivisionError):

        class Odd:
            def __bool__(self) -> bool:
                raise ZeroDivisionError

        _C.set_programmatic_dependent_launch(Odd())


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def gpu_command(monkeypatch: pytest.MonkeyPatch, clock: FakeClock):
    """`bsk bench --device cuda`, with the clock of the test on the CPU."""
    monkeypatch.setattr(bench, "_device", lambda asked: "cuda")
    monkeypatch.setattr(torch.cuda, "device", lambda place: contextlib.nullcontext())
    monkeypatch.setattr(runner, "peak", lambda place: (989.4, "data sheet"))
    small = (CASE, BLOCKS)
    monkeypatch.setitem(tables.TABLES, "tiny", tables.Table(small, small[:1], "two"))
    real = session.run

    def run(cases, device, limits, total, done):
        def on_cpu(case, device, limits):
            return gpu_runner.run_case(case, "cpu", limits, clock)

        real(cases, "cpu", limits, total, done, on_cpu)

    monkeypatch.setattr(session, "run", run)
    return lambda *arguments: CliRunner().invoke(
        cli.app, ["bench", "--cases", "tiny", *arguments], env={"COLUMNS": "300"}
    )


def test_the_command_writes_figures_that_can_be_read_again(gpu_command, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = gpu_command("--peers", "sdpa_flash,blackwell", "--json", str(figures), "--commit", "abc")
    assert done.exit_code == 0, done.output
    assert "2 cases, 6.0 s of timing each: at most" in done.output
    written = json.loads(figures.read_text())
    assert written["environment"]["commit"] == "abc"
    assert [row["name"] for row in written["rows"]] == [CASE.name, BLOCKS.name]
    assert set(written["rows"][0]["us"]) == {"blackwell_sparsek", "sdpa_flash"}
    again = CliRunner().invoke(cli.app, ["bench", "--markdown", str(figures)])
    assert again.exit_code == 0 and BLOCKS.name in again.output
    assert not list(tmp_path.glob("*.part"))


def test_the_command_runs_the_quick_selection_in_the_time_given(gpu_command) -> None:
    done = gpu_command("--quick", "--peers", "blackwell", "--seconds", "14")
    assert done.exit_code == 0, done.output
    assert "1 cases, 2.0 s of timing each: at most 14 s in all." in done.output
    assert BLOCKS.name not in done.output
    done = gpu_command("--variants", "nonsense")
    assert done.exit_code == 2 and "nonsense" in done.output
    done = gpu_command("--seconds", "5")
    assert done.exit_code == 2 and "seconds: must be at least" in done.output


def test_the_command_fails_where_a_case_fails(
    gpu_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gpu_runner.run_case

    def run_case(case, *arguments):
        if case is CASE:
            raise RuntimeError("cuLaunchKernelEx: broken")
        return real(case, *arguments)

    monkeypatch.setattr(gpu_runner, "run_case", run_case)
    figures = tmp_path / "figures.json"
    done = gpu_command("--peers", "blackwell", "--json", str(figures))
    assert done.exit_code == 1 and "cuLaunchKernelEx: broken" in done.output
    written = json.loads(figures.read_text())
    assert [row["name"] for row in written["rows"]] == [BLOCKS.name]
    assert written["skipped"][0]["failed"]


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """The real clocks: every figure is there, and they stand in the order that they must."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    limits = Limits(seconds=1.0, steady_seconds=0.5, wanted=lambda name: name.startswith("sdpa"))
    with torch.no_grad():
        row = gpu_runner.run_case(Case(dtype="fp16"), "cuda", limits)
    assert row["correct"] and set(row["us"]) == {"blackwell_sparsek", "sdpa_cudnn", "sdpa_flash"}
    for us in row["us"].values():
        assert us["method"] == "graph" and us["nodes"] == 200 and us["replays"] >= 30
        assert 0.5 < us["gpu_us"] < us["event_us"] + us["host_us"]
        assert us["gpu_us"] < 1.1 * us["cold_us"]
    assert 0.3 < row["control"]["us"] < row["us"]["blackwell_sparsek"]["gpu_us"]
    assert row["steady_state"]["blackwell_sparsek"]["gpu"]["sm_mhz"] > 100
