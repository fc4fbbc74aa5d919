"""Which models of a folder belong together, and which folders are refused in a sentence."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import onnx
import pytest

from onnxheadprune.deploying.folders.export import open_export
from onnxheadprune.deploying.folders.matching import matched
from tests.conftest import Command
from tests.deploying import exports
from tests.graphs import toys


def test_sites_in_another_order_are_told_by_their_weights(tmp_path: Path) -> None:
    """A file that holds only the second layer's attention."""
    onnx.save(toys.attention(ids=True), tmp_path / "encoder_model.onnx")
    onnx.save(toys.stack(layers=2), tmp_path / "decoder_model.onnx")
    match = matched(open_export(tmp_path))
    assert len(match.networks) == 2 and len(match.sites) == 3


def test_a_layer_that_differs_between_precisions_is_refused(command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    path = folder / "onnx" / "model_quantized.onnx"
    model = onnx.load(path)
    weight = next(item for item in model.graph.initializer if item.name == "layer1.attn.out.weight_quantized")
    weight.raw_data = bytes(255 - byte for byte in weight.raw_data[::-1][5:] + weight.raw_data[:5])
    onnx.save(model, path)
    outcome = command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1")
    assert outcome.exit_code == 3 and "is not in onnx/model_quantized.onnx" in outcome.stderr, outcome


def test_a_copy_that_cannot_be_cut_is_left_out_on_request(command: Command, tmp_path: Path) -> None:
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    extra = "onnx/model_quint8_avx2.onnx"
    onnx.save(
        exports.quantized(toys.stack(seed=1)),
        folder / extra,
        save_as_external_data=True,
        location="extra_data",
        size_threshold=0,
    )
    words = ("prune", folder, "-o", out, "--heads", "0:1")
    refused = command(*words)
    assert (
        refused.exit_code == 3
        and f"or leave model_quint8_avx2.onnx out with --exclude {extra}" in refused.stderr
    )
    outcome = command(*words, "--exclude", "*_quint8_avx2.onnx", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert not {"model_quint8_avx2.onnx", "extra_data"} & {path.name for path in (out / "onnx").iterdir()}
    (line,) = (text for text in outcome.document["warnings"] if text.startswith(extra))
    again = command(*shlex.split(line.partition(": ")[2])[1:])
    assert again.exit_code == 0 and (out / extra).is_file(), again.stderr
    (out / extra).unlink()
    compared = command("validate", folder, out)
    assert compared.exit_code == 0, compared.stderr
    assert f"{extra} of {folder} is compared with nothing" in " ".join(compared.stderr.split())


@pytest.mark.parametrize(
    ("damage", "code"), [("no data", 3), ("no json", 2), ("no models", 2), ("no model", 3), ("a fifo", 2)]
)
def test_bad_folders_end_in_a_sentence(damage: str, code: int, command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    if damage == "no data":
        (folder / "onnx" / "model.onnx_data").unlink()
    elif damage == "no json":
        (folder / "config.json").write_text("{")
    elif damage == "no models":
        for path in folder.rglob("*.onnx"):
            path.unlink()
    elif damage == "no model":
        (folder / "onnx" / "model.onnx").write_bytes(b"half of it")
    else:
        os.mkfifo(folder / "pipe")
    outcome = command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1")
    assert outcome.exit_code == code and outcome.stderr.count("\n") == 1, outcome
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
