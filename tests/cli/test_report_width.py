"""COLUMNS says how wide a report is; what is no width, or none that a table can be read at, hides nothing."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from onnxheadprune.cli import group
from tests.conftest import Command, Outcome
from tests.graphs import toys

TIMED = "--batch 1 --repeats 5"
QUICK = {
    "inspect": "inspect model.onnx",
    "score": "score model.onnx",
    "prune": "prune model.onnx --heads 0:1 -o out.onnx",
    "prune a look ahead": "prune model.onnx --heads 0:1 --dry-run",
    "fuse": "fuse model.onnx --dry-run",
    "validate": "validate model.onnx pruned.onnx",
    "batch": "batch folder --heads 0:1 -o out",
    "quantize": "quantize model.onnx -o out.onnx --to int8-dynamic",
    "doctor": "doctor",
}
LONG = {
    "recover": "recover model.onnx pruned.onnx -o out.onnx --data random --budget 1",
    "sweep": "sweep model.onnx 0:0.5:0.5 --data random",
    "bench": f"bench model.onnx pruned.onnx {TIMED}",
    "run": "run job.yaml",
    "report": "report pruned.json -o r.html",
}
NO_WIDTHS = ["0", "-1", "", "wide", "1e3", "\u0668\u0660", " "]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, batch_in_process: None) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("model.onnx", "folder/model.onnx"):
        onnx.save(toys.attention(), tmp_path / name)
    (tmp_path / "job.yaml").write_text("model: model.onnx\noutput: out\nprune: {heads: {'0': [1]}}\n")
    told = command("prune", "model.onnx", "--heads", "0:1", "-o", "pruned.onnx", "--json")
    (tmp_path / "pruned.json").write_text(told.stdout)
    return tmp_path


def lines(outcome: Outcome) -> list[str]:
    return [line for line in (outcome.stdout + outcome.stderr).splitlines() if line.strip()]


def test_every_command_is_printed() -> None:
    assert {line.split()[0] for line in (QUICK | LONG).values()} == set(group.commands)


@pytest.mark.slow
@pytest.mark.parametrize("line", QUICK.values(), ids=list(QUICK))
def test_a_width_of_nothing_prints_what_no_width_prints(
    line: str, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(*line.split())
    # A batch skips what is done already, in the same words from then on.
    before = lines(command(*line.split()))
    monkeypatch.setenv("COLUMNS", "0")
    after = lines(command(*line.split()))
    assert before and len(after) == len(before)


@pytest.mark.slow
@pytest.mark.parametrize("line", LONG.values(), ids=list(LONG))
def test_long_commands_print_at_a_width_of_nothing(
    line: str, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert lines(command(*line.split()))


@pytest.mark.parametrize("columns", NO_WIDTHS)
def test_what_is_no_width_is_as_if_nobody_asked(
    columns: str, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = command("inspect", "model.onnx").stdout
    monkeypatch.setenv("COLUMNS", columns)
    assert command("inspect", "model.onnx").stdout == before


@pytest.mark.parametrize("columns", ["1", "2", "59", "60", "080", "1000", "1001", "9" * 5000])
def test_any_width_shows_every_number(
    columns: str, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    outcome = command("inspect", "model.onnx")
    words = re.findall(r"[\w.]+", outcome.stdout)
    assert outcome.exit_code == 0 and {"attn.0", "attn", "mha", "4"} <= set(words), outcome.stdout
    assert all(len(line) <= 1000 for line in outcome.stdout.splitlines())


@pytest.mark.slow
def test_help_is_printed_at_any_width(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (*NO_WIDTHS, "1", "9" * 30):
        monkeypatch.setenv("COLUMNS", columns)
        for name in group.commands:
            assert (
                "Options" in command(name, "--help").stdout and "--json" in command(name, "--help-all").stdout
            )
