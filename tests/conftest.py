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
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onnxheadprune.benchmarking import measure
from onnxheadprune.cli import main
from onnxheadprune.deploying import batch_worker
from onnxheadprune.reporting import progress
from onnxheadprune.workflow.choice import latency as speeding
from tests.sources import PACKAGE

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_models"
CASES = pytest.StashKey[Counter[str]]()
"""How many cases of each test have been collected."""


def pytest_configure() -> None:
    """A shell starts what runs in its background with Ctrl-C switched off, and tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave every nth case of what is marked `one_in(n)` in the plain run: one law, which the long run tries on all."""
    marker = item.get_closest_marker("one_in")
    if marker is not None:
        cases = item.config.stash.setdefault(CASES, Counter())
        name = item.nodeid.partition("[")[0]
        if cases[name] % marker.args[0]:
            item.add_marker(pytest.mark.long)
        cases[name] += 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the part of each file's tests that `--part` asks for; `graph` is parametrized with its part already."""
    first, parts = config.getoption("part")
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if "graph" not in getattr(item, "fixturenames", ()):
            files[item.path].append(item)
    left_out = {
        item
        for found in files.values()
        for number, item in enumerate(found)
        if number % parts != first % min(parts, len(found))
    }
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


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


def part(text: str) -> tuple[int, int]:
    """Read "13/4" as the second of four parts, so that a count of anything serves as the first number.

    Raises:
        ValueError: if that is no pair of whole numbers.
        ZeroDivisionError: if there are no parts.
    """
    number, parts = map(int, text.split("/"))
    return number % parts, parts


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the answers of `tests/golden` anew; `--part` runs some of the tests of each file."""
    parser.addoption(
        "--part",
        type=part,
        default=(0, 1),
        metavar="K/N",
        help="of each file run the (K mod N)th test and every Nth from there; of a file with fewer, one",
    )
    parser.addoption("--update-golden", action="store_true", help="write the answers of tests/golden anew")


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


class Here:
    """A worker of a batch without a process of its own."""

    def run(self, job: batch_worker.Job) -> batch_worker.Outcome:
        return batch_worker._done(job)

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def batch_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what a batch decides; that its workers are processes, and may die, has tests of its own."""
    monkeypatch.setattr("onnxheadprune.deploying.batch.Worker", Here)


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
