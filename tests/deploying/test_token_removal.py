"""Jobs, batches and the Olive pass remove tokens, and what comes later in a job knows the ids that are left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnxheadprune.edit.records import record_of
from onnxheadprune.integrations.cutting import call_of, cut
from tests.conftest import Command
from tests.vocabulary.places import KEPT, fill


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)


JOB = """\
model: models/m.onnx
output: job
data: {path: d.npz}
prune: {vocab: keep.txt, heads: "0:1"}
"""


def by_job(command: Command, place: Path) -> Path:
    (place / "job.yaml").write_text(JOB, "utf-8")
    assert command("run", place / "job.yaml").exit_code == 0
    return place / "job" / "pruned.onnx"


def by_batch(command: Command, place: Path) -> Path:
    call = ("batch", place / "models", "-o", place / "out", "--vocab", "keep.txt", "--heads", "0:1")
    assert command(*call).exit_code == 0
    made = (place / "out" / "m.onnx").read_bytes()
    # A list that has changed is another request.
    (place / "keep.txt").write_text("0\n1", "utf-8")
    assert "done and proven before" not in command(*call).stdout
    (place / "out" / "m.onnx").write_bytes(made)
    return place / "out" / "m.onnx"


def by_olive(_command: Command, place: Path) -> Path:
    cut(place / "models" / "m.onnx", place / "o.onnx", call_of({"vocab": "keep.txt", "heads": "0:1"}))
    return place / "o.onnx"


@pytest.mark.parametrize("way", [by_job, pytest.param(by_batch, marks=pytest.mark.slow), by_olive])
def test_every_way_removes_them(command: Command, place: Path, way: Callable[[Command, Path], Path]) -> None:
    made = onnx.load(way(command, place))
    record = record_of(made).vocabulary
    assert record is not None and record.kept == KEPT
    assert record_of(made).removes_units


@pytest.mark.slow
def test_a_job_goes_on_with_them(command: Command, place: Path) -> None:
    """Training, quantizing, judging and measuring, each on data of the original's ids."""
    rest = "recover: {budget: 1}\nquantize: {to: int8-qdq}\nvalidate: {data: d.npz}\n"
    (place / "job.yaml").write_text(JOB + rest, "utf-8")
    shown = command("run", place / "job.yaml")
    assert shown.exit_code == 0, shown.stdout + shown.stderr
    assert "its token ids translated" in (place / "job" / "validate.json").read_text("utf-8")
