"""Fixtures of the GPU tests, and what scripts/gpu_test.sh needs to run them in several processes.

--shard 3/12     only this share of the tests, in an order of its own (so that processes
                 seldom compile the same kernel at the same time)
--report FILE    a JSON line when a test starts and one when it ends; tests that FILE already
                 names are left out, so that a run can go on after a crash
--test-limit S   a test that takes longer ends the process, with a traceback beside FILE, in .trace
"""

from __future__ import annotations

import faulthandler
import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch

import gpu_tools
from blackwell_sparsek.core import Config, set_default_config


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("the GPU tests")
    group.addoption("--shard", metavar="I/N", help="run share I of N of the tests")
    group.addoption("--report", metavar="FILE", help="write JSON lines; leave out what it names")
    group.addoption("--test-limit", metavar="S", type=float, help="seconds that a test may take")


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(name, default=None)  # None where this conftest came in too late


class _Report:
    """Writes the JSON lines of one process and watches over the time of each test."""

    def __init__(self, path: Path, limit: float | None) -> None:
        self.path, self.limit = path, limit
        self.seen = {json.loads(line)["test"] for line in _lines(path)}
        # Open to the end of the process, which may be sudden.
        self.file: IO[str] = path.open("a")
        self.trace: IO[str] = path.with_suffix(".trace").open("a")

    def write(self, **entry: object) -> None:
        print(json.dumps(entry), file=self.file, flush=True)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(test=nodeid, outcome="started")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.limit:
            self.trace.write(f"\n{item.nodeid}\n")
            self.trace.flush()
            limit = 2 * self.limit if _is_slow(item) else self.limit
            faulthandler.dump_traceback_later(limit, exit=True, file=self.trace)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed or report.skipped:
            text = "" if report.passed else str(report.longrepr)
            self.write(
                test=report.nodeid, outcome=report.outcome, seconds=report.duration, text=text
            )
        if report.when == "teardown":
            faulthandler.cancel_dump_traceback_later()
            self.write(test=report.nodeid, outcome="ended", notes=report.user_properties)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(test=report.nodeid, outcome="failed", text=str(report.longrepr))
        elif report.skipped:
            self.write(test=report.nodeid, outcome="skipped", text=str(report.longrepr))


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def pytest_configure(config: pytest.Config) -> None:
    path = _option(config, "--report")
    if path:
        report = _Report(Path(path), _option(config, "--test-limit"))
        config.pluginmanager.register(report, "gpu_test_report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    report = config.pluginmanager.get_plugin("gpu_test_report")
    if report is not None:
        items[:] = [item for item in items if item.nodeid not in report.seen]
    shard = _option(config, "--shard")
    if shard:
        index, count = (int(part) for part in shard.split("/"))
        items[:] = [i for i in items if zlib.crc32(i.nodeid.encode()) % count == index]
        random.Random(index).shuffle(items)
        items.sort(key=_is_slow)  # last, when most kernels are compiled


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> Iterator[None]:
    """The default configuration before and after; the worst margin of the test goes to the report.

    After a CUDA error that the device does not recover from, no further test of this process runs.
    """
    set_default_config(Config())
    gpu_tools.MARGINS.clear()
    yield
    set_default_config(Config())
    if gpu_tools.MARGINS:
        request.node.user_properties.append(("margin", round(max(gpu_tools.MARGINS), 3)))
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            text = f"{request.node.name}: {str(error).splitlines()[0]}"
            request.session.shouldfail = text
            pytest.fail(text)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a measured figure and puts it into the report."""

    def note(text: str) -> None:
        print(text)
        request.node.user_properties.append(("figure", text))

    return note
