"""Neurons, sublayers and layers of a folder: the same ones from every file that holds them, or a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune import inspect
from tests.conftest import Command
from tests.graphs import pairs, toys

DECODERS = ("decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx")


def removed(path: Path) -> list[tuple[int, ...]]:
    return [site.removed for site in inspect(path).neurons]


def spoilt(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def _noise(model: onnx.ModelProto) -> None:
    toys.set_initializer(
        model, "layer1.ffn.down.weight", np.random.default_rng(9).normal(size=(20, 12)).astype(np.float32)
    )


def _another_order(model: onnx.ModelProto) -> None:
    """The same network: its neurons only have other numbers."""
    order = np.random.default_rng(0).permutation(20)
    for name, axis in (("layer1.ffn.up.weight", 1), ("layer1.ffn.down.weight", 0)):
        weights = toys.get_initializer(model, name)
        toys.set_initializer(model, name, np.ascontiguousarray(np.take(weights, order, axis)))


@pytest.mark.slow
@pytest.mark.parametrize("change", [_noise, _another_order])
def test_a_block_that_differs_is_refused_and_heads_still_go(
    change: Callable[[onnx.ModelProto], None], command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("model.onnx", "model_fp16.onnx"):
        onnx.save(toys.stack(), folder / name)
    spoilt(folder / "model_fp16.onnx", change)
    outcome = command("prune", folder, "-o", tmp_path / "out", "--neurons", "0:1")
    assert (outcome.exit_code, outcome.stderr.count("\n")) == (3, 1)
    assert "ffn.1 (layer1.ffn) of model.onnx is not in model_fp16.onnx" in outcome.stderr
    assert not (tmp_path / "out").exists()
    shown = command("inspect", folder)
    assert shown.exit_code == 0 and "heads alone can be removed from all files" in " ".join(
        shown.stdout.split()
    )
    assert "is not in model_fp16.onnx" in str(command("inspect", folder, "--json").document["disagreement"])
    assert command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1").exit_code == 0


@pytest.mark.slow
def test_files_that_were_cut_apart_are_refused(command: Command, tmp_path: Path) -> None:
    """Each file is exact by itself; together they are no network."""
    folder, out = pairs.folder(tmp_path / "in", feed=True), tmp_path / "out"
    assert command("prune", folder, "-o", out, "--neurons", "0:1").exit_code == 0
    shown = command("validate", folder, out)
    assert shown.exit_code == 0 and "nothing was cut there: encoder_model.onnx" in " ".join(
        shown.stdout.split()
    )
    assert command("validate", folder, out, "--json").document["same"] == ["encoder_model.onnx"]
    (out / DECODERS[2]).unlink()
    assert command("prune", folder / DECODERS[2], "-o", out / DECODERS[2], "--neurons", "0:2").exit_code == 0
    for place in (folder, out):
        outcome = command("validate", folder / DECODERS[2], place / DECODERS[2])
        assert outcome.exit_code == (0 if place is out else 2)
    outcome = command("validate", folder, out)
    assert outcome.exit_code == 3 and "have lost different neurons of ffn.0" in outcome.stderr
    outcome = command("prune", out, "-o", tmp_path / "more", "--neurons", "0:5")
    assert outcome.exit_code == 3 and "agree" in outcome.stderr, outcome.stderr
