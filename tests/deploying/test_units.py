"""Neurons, sublayers and layers of a folder: the same ones from every file that holds them, or a sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import inspect, prune_folder
from onnxheadprune.settings.registry import RUNTIMES
from tests.conftest import Command
from tests.deploying import exports
from tests.deploying.exports import contents
from tests.graphs import pairs, toys

BOTH = ("onnx/model.onnx", "onnx/model_quantized.onnx")
DECODERS = ("decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx")


def removed(path: Path) -> list[tuple[int, ...]]:
    return [site.removed for site in inspect(path).neurons]


def spoilt(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


@pytest.mark.slow
def test_the_same_neurons_go_from_both_precisions(command: Command, tmp_path: Path) -> None:
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    before = contents(folder)
    words = ("--heads", "0:1", "--neurons", "1:0-3,9", "--layers", "ffn.0")
    outcome = command("prune", folder, "-o", out, *words, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    document = outcome.document
    assert [item["file"] for item in document["files"]] == list(BOTH)
    assert all(item["validation"]["verdict"] == "passed" for item in document["files"])
    assert document["heads"] == {"0": [1]} and document["neurons"] == {"ffn.0": "0-19", "ffn.1": "0-3,9"}
    assert [(block["key"], sorted(block["files"])) for block in document["feed_forward"]] == [
        ("ffn.0", list(BOTH)),
        ("ffn.1", list(BOTH)),
    ]
    for name in BOTH:
        assert removed(out / name) == [(0, 1, 2, 3, 9)]
        assert [site.removed for site in inspect(out / name)] == [(1,), ()]
    assert contents(folder) == before
    assert (out / "config.json").read_bytes() == before["config.json"]
    assert command("validate", folder, out).exit_code == 0


@pytest.mark.slow
def test_a_folder_shows_its_blocks(command: Command, tmp_path: Path) -> None:
    folder = pairs.folder(tmp_path / "in", feed=True)
    shown = command("inspect", folder, "--json").document
    assert [(block["key"], sorted(block["files"])) for block in shown["feed_forward"]] == [
        ("ffn.0", list(DECODERS)),
        ("ffn.1", ["encoder_model.onnx"]),
    ]
    assert [site["index"] for site in shown["sites"]] == [0, 1, 2] and shown["disagreement"] is None
    words = command("inspect", folder).stdout
    assert "2 feed-forward blocks, 48 neurons (--neurons)" in words
    assert f"ffn.0 are in {', '.join(DECODERS)}" in words and "ffn.1 are in encoder_model.onnx" in words


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
    assert "ffn.1 (layer1) of model.onnx is not in model_fp16.onnx" in outcome.stderr
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


@pytest.mark.slow
def test_a_layer_goes_from_every_decoder_and_leaves_the_caches(command: Command, tmp_path: Path) -> None:
    folder, out = pairs.folder(tmp_path / "in", feed=True), tmp_path / "out"
    outcome = command(
        "prune", folder, "-o", out, "--layers", "decoder_model.0", "--runtime", "optimum", "--json"
    )
    assert outcome.exit_code == 0, outcome.stderr
    document = outcome.document
    assert [item["file"] for item in document["files"]] == list(DECODERS)
    assert all(item["plan"]["interface"] == [] for item in document["files"])
    assert document["config_changes"] == [] and "encoder_model.onnx" in document["copied"]
    outcome = command("prune", folder, "-o", tmp_path / "x", "--layers", "decoder_model.2")
    assert outcome.exit_code == 2 and "there is no layer 'decoder_model.2'; this model has" in outcome.stderr


@pytest.mark.slow
def test_weights_in_blocks_decide_what_can_go(command: Command, tmp_path: Path) -> None:
    """Of a file in four bits only whole blocks can go, so of the whole folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    model = toys.stack(inner=32)
    onnx.save(model, folder / "model.onnx")
    onnx.save(toys.packed(model, 0), folder / "model_q4.onnx")
    outcome = command("prune", folder, "-o", tmp_path / "out", "--neurons", "0:0-3")
    assert outcome.exit_code == 3 and "model_q4.onnx: " in outcome.stderr
    size = toys.BLOCK
    outcome = command("prune", folder, "-o", tmp_path / "out", "--neurons", f"0:0-{size - 1}")
    assert outcome.exit_code == 0, outcome.stderr


@pytest.mark.slow
def test_a_target_is_decided_once_and_refitted_everywhere(tmp_path: Path) -> None:
    folder, out = pairs.folder(tmp_path / "in", feed=True), tmp_path / "out"
    target: Any = {"ratio": 0.4, "units": ["heads", "neurons"], "multiple_of": {"neurons": 2}}
    data = {
        "input_ids": np.random.default_rng(3).integers(3, toys.VOCABULARY, (24, 6)),
        "attention_mask": np.ones((24, 6), np.int64),
    }
    result = prune_folder(folder, output=out, **target, data=data, provider="cpu")
    assert [item.name for item in result.files] == ["encoder_model.onnx"]
    (sentence,) = (text for text in result.warnings if "is left unchanged" in text)
    assert sentence.startswith("decoder_model.onnx is left unchanged: its units are scored on data")
    leader = result.files[0].result
    assert leader.chosen is not None and leader.chosen.compensation is not None
    assert leader.validation is not None and leader.validation.passed


def test_layers_are_chosen_in_folders(tmp_path: Path) -> None:
    """They are told apart by what lies in them, also where nothing else may go."""
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    data = {name: np.ones((24, 6), np.int64) for name in ("input_ids", "attention_mask")}
    data["input_ids"] = np.random.default_rng(3).integers(3, toys.VOCABULARY - 1, (24, 6))
    target: Any = {"keep": 1, "units": ["layers"], "exclude": (BOTH[1],), "refit": False}
    (item,) = prune_folder(folder, output=out, **target, data=data, provider="cpu").files
    assert item.result.plan.called_whole[-1].startswith("layer.")
    assert item.result.validation is not None and item.result.validation.passed


@pytest.mark.slow
def test_a_target_on_text_reaches_every_network(command: Command, tmp_path: Path) -> None:
    folder, out = pairs.folder(tmp_path / "in", feed=True), tmp_path / "out"
    text = tmp_path / "t.txt"
    random = np.random.default_rng(5)
    rows = (" ".join(f"w{word}" for word in random.integers(1, 15, 5)) for _ in range(40))
    text.write_text("\n".join(rows), encoding="utf-8")
    words = ("--ratio", "0.4", "--units", "neurons", "--multiple-of", "neurons=2", "--data", text, "--json")
    outcome = command("prune", folder, "-o", out, *words)
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.document["files"]) == 4
    assert len({str(removed(out / name)) for name in DECODERS}) == 1 and removed(out / DECODERS[0]) != [()]
    assert outcome.document["heads"] == {} and outcome.document["neurons"].keys() == {"ffn.0", "ffn.1"}


@pytest.mark.slow
def test_the_networks_of_a_folder_share_the_time_of_the_call(command: Command, tmp_path: Path) -> None:
    """Each is trained, and the first leaves the second as much as it had."""
    folder, out = pairs.folder(tmp_path / "in", feed=True), tmp_path / "out"
    text = tmp_path / "t.txt"
    random = np.random.default_rng(5)
    text.write_text("\n".join(" ".join(f"w{word}" for word in random.integers(1, 15, 5)) for _ in range(60)))
    words = ("--ratio", "0.4", "--units", "neurons", "--multiple-of", "neurons=2", "--data", text, "--json")
    began = time.monotonic()
    outcome = command("prune", folder, "-o", out, *words, "--time", "16s")
    assert outcome.exit_code == 0, outcome.stderr
    assert time.monotonic() - began <= 16 * 1.25
    first, second = (
        item["choice"]["recovery"] for item in outcome.document["files"] if item["leads"] and item["choice"]
    )
    assert first["steps"] and second["steps"]
    assert first["seconds"] < 8 and second["seconds"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("client", sorted(RUNTIMES.keys() - {"genai"}))
def test_no_client_asks_for_widths(client: str, command: Command, tmp_path: Path) -> None:
    """Caches stay as they are, so nothing follows; a width that the configuration tells is named."""
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    config = {"model_type": "bert", "num_attention_heads": 4, "hidden_size": 12, "num_hidden_layers": 2}
    config |= {"intermediate_size": toys.INNER}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    outcome = command(
        "prune", folder, "-o", out, "--neurons", "0:1", "--runtime", client, "--dry-run", "--json"
    )
    assert outcome.exit_code == 0, outcome.stderr
    fields = [change["field"] for change in outcome.document["config_changes"]]
    assert not any("intermediate_size" in field or "layers" in field for field in fields)
    (told,) = (text for text in outcome.document["warnings"] if "intermediate_size" in text)
    assert "intermediate_size 20" in told
    outcome = command(
        "prune", folder, "-o", out, "--heads", "0:1", "--runtime", client, "--dry-run", "--json"
    )
    assert not any("intermediate_size" in text for text in outcome.document["warnings"])
