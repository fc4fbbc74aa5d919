"""Jobs as users run them: the one of the documentation, and one whose process is killed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from junitparser import JUnitXml

from onnxheadprune.deploying.jobs.run import STATE
from tests.conftest import ROOT, SAMPLES, Command
from tests.deploying.jobs_keys import sections

PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
EXAMPLE = (SAMPLES / "digits_job.yaml").read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The example, beside copies of the files that it names."""
    (tmp_path / "job.yaml").write_text(EXAMPLE, encoding="utf-8")
    for name in ("digits_vit.onnx", "digits_calibration.npz", "digits_test.npz"):
        shutil.copy(SAMPLES / name, tmp_path)
    return tmp_path


def test_the_documentation_shows_the_example() -> None:
    assert f'```text title="sample_models/digits_job.yaml"\n{EXAMPLE}```' in PAGE


def test_the_documentation_names_every_section() -> None:
    table = PAGE.partition("| section |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1].strip(" `") for row in table.splitlines() if row.startswith("| ")]
    assert rows == list(sections())


@pytest.mark.slow
def test_the_example_of_the_documentation(command: Command, place: Path) -> None:
    """As it is, but for the limit that hangs on a clock, and how long that is looked at."""
    words = [
        "--set",
        "gate.min_speedup=1e-3",
        "--set",
        "bench.time_budget=0.5",
        "--set",
        "bench.memory=false",
    ]
    outcome = command("run", place / "job.yaml", "--json", "--junit", place / "gates.xml", *words)
    assert outcome.exit_code == 0, outcome
    verdict = outcome.document
    assert [step["status"] for step in verdict["steps"]] == ["done"] * 6
    assert verdict["accepted"]
    assert {gate["name"] for gate in verdict["gates"]} == set(yaml.safe_load(EXAMPLE)["gate"])
    (suite,) = JUnitXml.fromfile(str(place / "gates.xml"))
    assert (suite.tests, suite.failures, suite.errors) == (11, 0, 0)
    folder = place / "digits-job"
    made = {path.name for path in folder.iterdir()}
    told = re.findall(
        r"`([\w.-]+\.(?:json|onnx|html|md))`",
        PAGE.partition("| in the folder")[2].partition("Nothing else")[0],
    )
    assert made == set(told) - {"measuring.md"}
    assert (
        "Which" not in (folder / "summary.md").read_text()
        and "| operations |" in (folder / "summary.md").read_text()
    )
    again = command("run", place / "job.yaml", "--json", *words)
    assert {step["status"] for step in again.document["steps"]} == {"unchanged"}
    again = command("run", place / "job.yaml", "--json", *words, "--set", "gate.max_size_ratio=0.1")
    assert again.exit_code == 1 and not again.document["accepted"]


def state_of(place: Path) -> dict[str, dict[str, object]]:
    """The steps that are begun, and what of them is done."""
    try:
        steps: dict[str, dict[str, object]] = json.loads((place / "out" / STATE).read_text())["steps"]
    except FileNotFoundError:
        return {}
    return steps


@pytest.mark.slow
def test_a_job_that_is_killed_goes_on(command: Command, place: Path) -> None:
    """Killed while it trains; the same command ends with the bytes of a run that nobody has killed."""
    settings = ("output=out", "quantize=null", "bench=null", "gate=null", "recover.budget=6")
    words = [str(place / "job.yaml"), *(word for setting in settings for word in ("--set", setting))]
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxheadprune", "run", *words], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    checkpoint = place / "out" / "recovered.onnx.recovery"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.is_file() and not (place / "out" / "recovered.onnx").exists()
    assert state_of(place)["recover"]["files"] is None and state_of(place)["prune"]["files"] is not None
    outcome = command("run", *words, "--json")
    assert outcome.exit_code == 0, outcome
    statuses = [(step["name"], step["status"]) for step in outcome.document["steps"]]
    assert statuses == [
        ("score", "unchanged"),
        ("prune", "unchanged"),
        ("recover", "done"),
        ("validate", "done"),
    ]
    assert not checkpoint.exists()
    words[words.index("output=out")] = "output=whole"
    assert command("run", *words, "--json").exit_code == 0
    assert (place / "out" / "recovered.onnx").read_bytes() == (
        place / "whole" / "recovered.onnx"
    ).read_bytes()
