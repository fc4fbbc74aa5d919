"""Folders whose attention goes with its caches: what each client's configuration must say then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import Command
from tests.deploying import exports
from tests.graph_builder import GraphBuilder
from tests.graphs import toys

WHOLE = "1:" + ",".join(map(str, range(toys.DECODER["heads"])))


def decoders(folder: Path, **more: Any) -> Path:
    """A folder of two decoders, for the first tokens and for those after them."""
    folder.mkdir()
    model = toys.decoder(3, cache=True)
    onnx.save(model, folder / "decoder_with_past_model.onnx")
    onnx.save(toys.without_past(model), folder / "decoder_model.onnx")
    exports.side_files(folder, {"model_type": "llama", "num_hidden_layers": 3, **more})
    return folder


@pytest.mark.slow
def test_all_files_of_a_folder_are_renumbered_and_the_field_follows(command: Command, tmp_path: Path) -> None:
    folder, out = decoders(tmp_path / "in"), tmp_path / "out"
    asked = ("prune", folder, "-o", out, "--heads", WHOLE, "--cache", "renumber", "--json")
    outcome = command(*asked, "--runtime", "optimum")
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 2
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
        told = [info.name for info in onnx.load(out / name).graph.output]
        assert told == ["logits", *(f"present.{at}.{what}" for at in range(2) for what in ("key", "value"))]
    assert [change["field"] for change in outcome.document["config_changes"]] == ["/num_hidden_layers"]


def with_encoder(folder: Path) -> Path:
    """A decoder, and an encoder that outputs values by the names of all its caches, as Whisper's does."""
    folder.mkdir()
    decoder = toys.decoder(3, cache=True)
    onnx.save(decoder, folder / "decoder.onnx")
    toy, dims = GraphBuilder(), ["n", "h", "p", "d"]
    names = [f"present.{at}.{what}" for at in range(3) for what in ("key", "value")]
    for name in names:
        toy.node("Identity", ["x"], name)
    model = toy.model([toy.info("x", dims)], [toy.info(name, dims) for name in names])
    onnx.save(model, folder / "encoder.onnx")
    return folder


def test_caches_that_another_file_outputs_keep_their_layer(command: Command, tmp_path: Path) -> None:
    """Who renumbers those of a decoder would feed it what an encoder computes for another layer."""
    folder = with_encoder(tmp_path / "in")
    words = ("prune", folder, "-o", tmp_path / "out", "--cache", "renumber", "--heads")
    refused = command(*words, WHOLE)
    told = " ".join(refused.stderr.split())
    assert refused.exit_code == 3 and not (tmp_path / "out").exists(), told
    assert "past_key_values.2.key of decoder.onnx and present.1.key of encoder.onnx are different" in told
    last = command(*words, WHOLE.replace("1:", "2:"))
    assert last.exit_code == 0, last.stderr


def test_the_proof_of_a_folder_joins_files_by_the_names_of_their_values(
    command: Command, tmp_path: Path
) -> None:
    folder, out = with_encoder(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    shutil.copy(folder / "encoder.onnx", out)
    pruned = command(
        "prune", folder / "decoder.onnx", "-o", out / "decoder.onnx", "--cache", "renumber", "--heads", WHOLE
    )
    assert pruned.exit_code == 0, pruned.stderr
    refused = command("validate", folder, out)
    assert refused.exit_code == 3 and "are different values" in " ".join(refused.stderr.split())
