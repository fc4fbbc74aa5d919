"""Tokens are removed by every way that removes heads, and what comes after knows the ids that are left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune.edit.records import record_of
from onnxheadprune.integrations.cutting import call_of, cut
from tests.conftest import Command
from tests.graphs import toys

KEPT = (*range(10), 11, 17)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a list of tokens and data, of which a part has tokens that are removed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    onnx.save(toys.stack(), tmp_path / "models" / "m.onnx")
    (tmp_path / "keep.txt").write_text("\n".join(map(str, KEPT)), "utf-8")
    ids = np.random.default_rng(0).choice(KEPT, (24, 6))
    ids[:5, 2] = 18
    np.savez(tmp_path / "d.npz", input_ids=ids)
    return tmp_path


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


def test_data_is_the_original_s(command: Command, place: Path) -> None:
    """It is translated where it meets the pruned model; without, its ids would be none of that model's, or others."""
    path, out = place / "models" / "m.onnx", place / "out.onnx"
    made = command("prune", path, "-o", out, "--vocab", "keep.txt", "--data", "d.npz", "--json").document
    drift = made["validation"]["drift"]
    again = command("validate", path, out, "--data", "d.npz", "--json").document
    assert again["verdict"] == "passed" and again["drift"] == drift
    ids = np.load(place / "d.npz")["input_ids"]
    ids[:, 0] = 18
    np.savez(place / "none.npz", input_ids=ids)
    none = command("validate", path, out, "--data", "none.npz")
    assert none.exit_code == 2 and "no sample of the data has tokens that are kept only" in none.stderr


def test_a_recovery_behind_it_is_proven(place: Path) -> None:
    """What was trained has fewer tokens; the reference, which has all of them, gets it in the original's shape."""
    paths = [place / name for name in ("models/m.onnx", "pruned.onnx", "recovered.onnx")]
    data = {"input_ids": np.random.default_rng(0).choice(KEPT, (24, 6))}
    ohp.prune(*paths[:2], vocab=list(KEPT), heads="0:1", validate=False)
    result = ohp.recover(*paths, data=data, budget=1, provider="cpu")
    assert result.validation is not None and "head.weight" in result.validation.refitted


@pytest.mark.slow
def test_a_job_goes_on_with_them(command: Command, place: Path) -> None:
    """Training, quantizing, judging and measuring, each on data of the original's ids."""
    rest = "recover: {budget: 1}\nquantize: {to: int8-qdq}\nvalidate: {data: d.npz}\n"
    (place / "job.yaml").write_text(JOB + rest, "utf-8")
    shown = command("run", place / "job.yaml")
    assert shown.exit_code == 0, shown.stdout + shown.stderr
    assert "its token ids translated" in (place / "job" / "validate.json").read_text("utf-8")
