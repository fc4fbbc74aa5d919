"""`inspect` of a folder says what it says of each of its files."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import prune
from tests.conftest import Command
from tests.deploying import exports
from tests.graphs import toys
from tests.graphs.models import EACH, MODELS


def _blind() -> ModelProto:
    """One whose first feed-forward block is a near miss, since nothing is known of an operator in it."""
    model = toys.stack()
    for node in model.graph.node:
        if node.output[0] == "layer0.ffn.active":
            node.op_type, node.domain = "Mystery", "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    shape = ["batch", "sequence", toys.INNER]
    model.graph.value_info.append(helper.make_tensor_value_info("layer0.ffn.active", 1, shape))
    return model


FURTHER = {"near misses": _blind}


@pytest.mark.parametrize("name", [*EACH, *FURTHER])
def test_a_folder_of_one_file_says_all_that_the_file_says(
    name: str, command: Command, tmp_path: Path
) -> None:
    model = {**MODELS, **FURTHER}[name]()
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    if name == "plain":
        prune(folder / "model.onnx", folder / "less.onnx", heads={0: [1]})
        (folder / "less.onnx").replace(folder / "model.onnx")
    alone, shown = command("inspect", folder / "model.onnx"), command("inspect", folder)
    assert shown.exit_code == alone.exit_code == 0, shown.stderr
    said = " ".join(shown.stdout.split()).replace(" (in model.onnx)", "").replace("model.onnx: ", "")
    lines = alone.stdout.splitlines()
    until = next(
        number for number, line in enumerate(lines) if line.startswith("next") or number == len(lines) - 1
    )
    for line in lines[1:until]:
        assert " ".join(line.split()) in said, line


def test_each_file_has_the_document_that_it_has_alone(command: Command, tmp_path: Path) -> None:
    folder = exports.encoder_decoder(tmp_path / "in")
    onnx.save(toys.no_attention(), folder / "prompt.onnx")
    for file in command("inspect", folder, "--json").document["files"]:
        if file["file"] != "prompt.onnx":
            alone = command("inspect", folder / file["file"], "--json").document
            names = alone.keys() - {"model", "facts"}
            assert {name: file[name] for name in names} == {name: alone[name] for name in names}
