"""Reports are made before the model has its name; what cannot be written after that is named, and loses nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import onnx
import pytest

from onnxheadprune.cli.outcome import BUG, NOT_WRITTEN
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.cli.program import group
from tests.conftest import Command
from tests.files.calls import outputs_of
from tests.graphs import toys

MINE = """
import pathlib
import numpy as np

def feeds():
    for name in pathlib.Path("in the way").read_text().split():
        pathlib.Path(name).mkdir(exist_ok=True)
    return [{"x": np.full((1, 4, 12), value, np.float32)} for value in np.linspace(-1, 1, 40)]
"""
"""Data of the user, whose code puts folders where reports go while the command works."""
TIMED = "--batch 1 --repeats 7"
CALLS = {
    "prune": "prune model.onnx --heads 0:1 -o out.onnx --report r.html",
    "prune by a ratio": "prune model.onnx --ratio 0.5 -o out.onnx --report r.html --heatmap h.svg",
    "prune a look ahead": "prune model.onnx --ratio 0.5 --dry-run --report r.html --heatmap h.svg",
    "prune a folder": "prune folder --heads 0:1 -o out --report r.html",
    "fuse": "prune model.onnx --fuse contrib -o out.onnx --report r.html",
    "recover": "recover model.onnx pruned.onnx -o out.onnx --report r.html --budget 1",
    "score": "score model.onnx -o s.json --heatmap h.svg",
    "sweep": "sweep model.onnx 0:0.5:0.5 -o c.json",
    "run": "run job.yaml --junit j.xml",
}
JOB = """
model: model.onnx
output: jobs
data: {path: "mine_for_reports:feeds"}
prune: {heads: {"0": [1]}}
"""
BESIDE = {"sweep": ("c.png",), "run": ("jobs/summary.md", "jobs/report.html")}
"""Reports that no option names."""


def reports(line: str) -> list[str]:
    """The reports that a command line names: all outputs but the model."""
    command, *words = line.split()
    found = {option: name for option, name in itertools.pairwise(words) if option.startswith("-")}
    options = outputs_of(group.commands[command])
    model = "out" in found.get("-o", "")
    return [
        found[spelled]
        for item in options
        for spelled in item.opts
        if spelled in found and not (model and item.name == "output")
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    onnx.save(toys.attention(), tmp_path / "model.onnx")
    (tmp_path / "folder").mkdir()
    onnx.save(toys.attention(), tmp_path / "folder" / "model.onnx")
    (tmp_path / "mine_for_reports.py").write_text(MINE)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "in the way").write_text("")
    assert command("prune", "model.onnx", "--heads", "0:1", "-o", "pruned.onnx").exit_code == 0
    return tmp_path


def arguments(line: str) -> list[str]:
    words = line.split()
    return words if words[0] == "run" else [*words, "--data", "mine_for_reports:feeds"]


def test_every_command_that_writes_reports_is_called() -> None:
    """`bench` runs no code of the user, so nothing can come in its way."""
    several = {
        name
        for name, command in group.commands.items()
        if any(item.name != "output" for item in outputs_of(command))
    }
    assert several - {"bench"} <= {line.split()[0] for line in CALLS.values()}


LOST = [(name, lost) for name, line in CALLS.items() for lost in (*reports(line), *BESIDE.get(name, ()))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lost"), LOST)
def test_a_report_that_cannot_be_written_loses_nothing(
    name: str, lost: str, command: Command, place: Path
) -> None:
    """The result is printed and the model is there; one sentence says what was written and what was not."""
    line = CALLS[name]
    (place / "in the way").write_text(lost)
    if "/" in lost:
        (place / lost).parent.mkdir()
    outcome = command(*arguments(line), "--json")
    assert outcome.exit_code == NOT_WRITTEN, outcome
    assert isinstance(json.loads(outcome.stdout), dict)
    (said,) = [text for text in outcome.stderr.splitlines() if text.startswith("error: ")]
    before, _, after = said.partition(" but ")
    assert f"{lost} cannot be written" in after, said
    kept = [item for item in reports(line) if item != lost]
    kept += [word for word in line.split() if word in ("out.onnx", "out")]
    for written in kept:
        assert (place / written).exists() and written in before, said


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["rows", "json"])
@pytest.mark.parametrize("name", [name for name, line in CALLS.items() if "-o out" in line])
def test_a_report_that_cannot_be_made_leaves_no_model(
    name: str, as_json: tuple[str, ...], command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a report shows before the model has its name, so that a pipeline finds all or nothing."""

    def broken(*_: object) -> str:
        raise RuntimeError("a bug in a report")

    monkeypatch.setattr(Presentation, "json" if as_json else "rows", broken)
    before = {path.name for path in place.iterdir()}
    outcome = command(*arguments(CALLS[name]), *as_json)
    assert outcome.exit_code == BUG, outcome
    # What a training has learned is kept for --resume.
    kept = {"out.onnx.recovery"} if name == "recover" else set()
    assert {path.name for path in place.iterdir()} - {"__pycache__"} == before | kept


AGAIN = {
    **CALLS,
    "bench": f"bench model.onnx pruned.onnx {TIMED} --csv b.csv --export-markdown b.md --plot p.pdf",
    "score a table": "score model.onnx -o s.csv --heatmap h.png",
    "quantize": "quantize model.onnx -o q.onnx --to int8-dynamic",
    "report": "report one.json -o page.html",
    "batch": "batch folder --heads 0:1 -o outs",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in AGAIN if name != "prune a folder"])
def test_what_this_tool_wrote_is_replaced(name: str, command: Command, place: Path) -> None:
    """Every output of every command: a second call like the first one replaces what the first one wrote."""
    words = arguments(AGAIN[name])
    if name == "report":
        (place / "one.json").write_text(command(*arguments(CALLS["prune"]), "--json").stdout)
    if name in ("report", "bench", "quantize"):
        words = AGAIN[name].split()
    for _ in range(2):
        outcome = command(*words)
        assert outcome.exit_code == 0, outcome


def test_every_output_is_written_again() -> None:
    written = {
        (line.split()[0], text) for line in AGAIN.values() for text in line.split() if text.startswith("-")
    }
    for command in group.commands.values():
        for option in outputs_of(command):
            if option.name != "backup":
                assert any((command.name, spelled) in written for spelled in option.opts), option.name
