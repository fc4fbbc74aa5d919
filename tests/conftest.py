"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings

from onnxheadprune.benchmarking import entry, measure, runner
from onnxheadprune.cli import main
from onnxheadprune.reporting import progress
from onnxheadprune.workflow.choice import latency as speeding
from tests.sources import PACKAGE

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_models"
PROPERTIES = {"plain": settings(max_examples=20, derandomize=True), "all": settings(max_examples=1000)}
"""Examples of each property: the same 20 in every plain run, other 1,000 in each run of all tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the project's own."""
    parser.addoption(
        "--all",
        action="store_true",
        help="run slow tests, all cases of tables, and 50 times as many examples of each property",
    )
    parser.addoption(
        "--update-golden", action="store_true", help="write stored answers anew: tests/golden, tests/screens"
    )


def pytest_configure(config: pytest.Config) -> None:
    """A shell starts what runs in its background with Ctrl-C switched off, and tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, budget in PROPERTIES.items():
        phases = (Phase.explicit, Phase.generate, Phase.shrink)
        settings.register_profile(
            name, budget, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck)
        )
    settings.load_profile("all" if config.getoption("all") else "plain")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `--all` runs."""
    if config.getoption("all"):
        return
    left_out = {item for item in items if item.get_closest_marker("slow")}
    for mark, draw in (("each_choice", each_choice), ("first_case", lambda table: table[:1])):
        tables: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            if item.get_closest_marker(mark):
                tables[item.nodeid.partition("[")[0]].append(item)
        for table in tables.values():
            left_out |= set(table) - set(draw(table))
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def each_choice(table: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield cases until each value of each parameter has come up: first those in which all values are new.

    Of a dataclass the fields are parameters.
    """
    seen: set[tuple[str, Hashable]] = set()
    for enough in (set.isdisjoint, lambda values, seen: not values <= seen):
        for item in table:
            parameters = item.callspec.params  # type: ignore[attr-defined]
            values = {part for name, value in parameters.items() for part in _parts(name, value)}
            if enough(values, seen):
                seen |= values
                yield item


def _parts(name: str, value: Any) -> Iterator[tuple[str, Hashable]]:
    if is_dataclass(value):
        for part in fields(value):
            yield from _parts(f"{name}.{part.name}", getattr(value, part.name))
        return
    try:
        hash(value)
    except TypeError:
        value = id(value)
    yield name, value


@pytest.fixture(scope="session", autouse=True)
def files_that_wait_for_no_disk() -> Iterator[None]:
    """Every write waits until its file is on the disk, of which no test sees anything: they kill processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def pytest_collection_finish() -> None:
    """Thousands of tests lie in memory to the end; the collector, which every benchmark calls, need not visit them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers start with one half of the tests each, so that modules, and what they share, stay together."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


class Outcome(NamedTuple):
    """What a command did."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document it must be."""
        return json.loads(self.stdout)


Command = Callable[..., Outcome]
"""What the fixture `command` gives."""


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs the command line in this process; captures file descriptors, so native noise counts too."""
    # Workers of pytest-xdist inherit the width of the terminal that started them.
    monkeypatch.delenv("COLUMNS", raising=False)
    # A busy machine takes long enough for lines of progress, which have tests of their own.
    monkeypatch.setattr(progress, "QUIET_SECONDS", math.inf)

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def digits() -> Path:
    return SAMPLES / "digits_vit.onnx"


@pytest.fixture
def digits_calibration() -> Path:
    return SAMPLES / "digits_calibration.npz"


@pytest.fixture
def digits_test() -> Path:
    return SAMPLES / "digits_test.npz"


@pytest.fixture
def tiny() -> Path:
    return SAMPLES / "tiny"


@pytest.fixture
def short_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real clocks that run for less long: what is asserted are factors, with wide margins."""
    monkeypatch.setattr(speeding, "SECONDS", 0.2)
    monkeypatch.setattr(measure, "SLICE", 0.002)
    monkeypatch.setattr(measure, "WARM_UP", 0.2)


@pytest.fixture
def one_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small size, measured for an instant: that there are figures, not which."""
    monkeypatch.setattr(speeding, "SECONDS", 0.01)
    monkeypatch.setattr(measure, "SLICE", 0.001)
    monkeypatch.setattr(measure, "WARM_UP", 0.05)
    monkeypatch.setattr(runner, "ROUNDS", 2)
    for name, sizes in {"LENGTHS": (4,), "PASTS": (4,), "BATCHES": (1,), "EXTENTS": (8,)}.items():
        monkeypatch.setattr(entry, name, sizes)


class Inline(Executor):
    """Does at once what it is given, in this process."""

    def __init__(self, _count: int = 1) -> None:
        """Take as many processes as there may be."""

    def submit(self, function: Any, /, *given: Any, **settings: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*given, **settings))
        return done


@pytest.fixture
def batch_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what a batch decides; that its workers are processes, and may die, has tests of its own."""
    monkeypatch.setattr("onnxheadprune.deploying.batch.Processes", Inline)


class PackageCopy(NamedTuple):
    """A copy of the package, to which a test adds what a contributor would."""

    folder: Path

    def add(self, place: str, source: str) -> None:
        """Write a file of the package."""
        (self.folder / PACKAGE.name / place).write_text(source, encoding="utf-8")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line of the copy in its folder."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "COLUMNS": "200"}
        line = [sys.executable, "-m", "onnxheadprune", *words]
        return subprocess.run(
            line, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def copied(tmp_path: Path) -> PackageCopy:
    """A copy of the package in a folder of its own."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    return PackageCopy(tmp_path)
