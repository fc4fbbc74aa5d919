"""Models that take one sample at a time, whatever their inputs declare: all that reads data feeds them one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import prune
from onnxheadprune.cli.program import group
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.operators import view_of
from tests.data.one_at_a_time import LENGTH, SAMPLES, one_sample, tokens

Command = Callable[..., Any]
NOTE = "takes one sample at a time"


@pytest.fixture(params=[True, False], ids=["fails", "another size"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    onnx.save(one_sample(fails=request.param), tmp_path / "model.onnx")
    np.savez(tmp_path / "tokens.npz", **tokens())
    (tmp_path / "feeds").mkdir()
    for position, rows in enumerate(np.split(tokens()["input_ids"], 4)):
        np.savez(tmp_path / "feeds" / f"{position}.npz", input_ids=rows)
    return tmp_path


USES: dict[str, tuple[tuple[str, ...], ...]] = {
    "prune": (
        ("model.onnx", "-o", "out.onnx", "--heads", "0:1"),
        ("model.onnx", "-o", "out.onnx", "--ratio", "0.25"),
        ("model.onnx", "-o", "out.onnx", "--max-drift", "20"),
        ("model.onnx", "-o", "out.onnx", "--target-speedup", "1.0001"),
        ("model.onnx", "-o", "out.onnx", "--heads", "0:1", "--recover", "1"),
        ("models", "-o", "outdir", "--heads", "0:1"),
        ("models", "-o", "outdir", "--ratio", "0.25"),
    ),
    "score": (("model.onnx",), ("model.onnx", "--method", "ablation"), ("model.onnx", "--method", "taylor")),
    "sweep": (("model.onnx", "0.25:0.25:0.25"),),
    "validate": (("model.onnx", "cut.onnx"), ("models", "cuts")),
    "recover": (("model.onnx", "cut.onnx", "-o", "out.onnx", "--budget", "1"),),
    "batch": (("models", "-o", "outdir", "--heads", "0:1"),),
    "quantize": (("cut.onnx", "-o", "out.onnx", "--to", "int8-qdq"),),
}


@pytest.mark.slow
@pytest.mark.parametrize("data", ["tokens.npz", "feeds"])
@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name, listed in USES.items() for words in listed]
)
def test_samples_are_run_one_by_one(
    command: Command,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    words: tuple[str, ...],
    data: str,
) -> None:
    monkeypatch.chdir(place)
    prune("model.onnx", "cut.onnx", heads="0:1", provider="cpu")
    (place / "models").mkdir()
    onnx.save(onnx.load("model.onnx"), place / "models" / "model.onnx")
    (place / "cuts").mkdir()
    onnx.save(onnx.load("cut.onnx"), place / "cuts" / "model.onnx")
    outcome = command(name, *words, "--data", data)
    assert outcome.exit_code == 0, outcome.stderr
    named = "--heads" in words and "--recover" not in words
    if words[0] != "models" and (name == "validate" or (name == "prune" and named)):
        assert NOTE in outcome.stdout
    if name == "score":
        assert f"{SAMPLES} samples of {data}, one at a time" in outcome.stdout


def test_every_command_with_data_is_tried() -> None:
    found = {
        name
        for name, item in group.commands.items()
        if any("--data" in option.opts for option in item.params)
    }
    assert found == set(USES)


@pytest.mark.parametrize("fails", [True, False])
def test_data_of_such_a_model_holds_single_samples(fails: bool) -> None:
    data = {**tokens(), "labels": np.arange(SAMPLES * LENGTH).reshape(SAMPLES, LENGTH) % 2}
    found = calibration_data(data, view_of(one_sample(fails=fails)))
    assert [feed["input_ids"].shape for feed in found.feeds] == [(1, LENGTH)] * SAMPLES
    assert all(sample.labels is not None and sample.labels.shape == (1, LENGTH) for sample in found)
    assert found.inputs[0].dims[0] == 1 and found.count == SAMPLES
