"""Experts are removed from mixtures as if their router had never had them, in every form that exporters write.

The oracle is arithmetic in float64, in which scores of removed experts are minus infinity before the choice; it knows
nothing of sites, masks or the graph.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

import onnxheadprune as ohp
from onnxheadprune import inspect
from tests.conftest import Command
from tests.graphs.experts import BY_HAND, TOYS, Experts, tokens
from tests.liveness.one_node import run

PAIRS = ([1, 4], [0, 5])
"""Sets that leave two groups of experts equal."""


def _unsimplified(model: ModelProto, readers: int) -> ModelProto:
    """The same with an Expand of every integer to the shape of its largest, as exporters index by several tensors."""
    kinds = {item.name: item.type.tensor_type for item in infer_shapes(model).graph.value_info}
    made, wide = ModelProto(), dict[str, str]()
    made.CopyFrom(model)
    del made.graph.node[:]
    for node in model.graph.node:
        added = made.graph.node.add()
        added.CopyFrom(node)
        added.input[:] = [wide.get(name, name) for name in node.input]
        for name in node.output:
            if name in kinds and kinds[name].elem_type == TensorProto.INT64:
                wide[name] = f"{name}/wide"
                made.graph.node.extend(
                    helper.make_node(op, read, [f"{name}/{to}"], f"{name}/{op}")
                    for op, read, to in (
                        ("Max", [name] * readers, "most"),
                        ("Shape", [f"{name}/most"], "shape"),
                        ("Expand", [name, f"{name}/shape"], "wide"),
                    )
                )
    return made


@pytest.mark.first_case
@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_who_reads_a_shape_alone_reads_no_numbers(toy: Experts, readers: int) -> None:
    model, x = _unsimplified(toy.model(), readers), tokens()
    (mixture,) = inspect(model).of("experts")
    assert mixture.reason is None
    made = ohp.prune(model, heads={"moe.0": PAIRS[0]}, provider="cpu")
    np.testing.assert_allclose(run(made.model, {"x": x})["out"], toy.expected(x, PAIRS[0]), atol=2e-5)


def _saved(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def test_through_the_command_line(command: Command, tmp_path: Path) -> None:
    model = _saved(Experts().model(), tmp_path / "model.onnx")
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    shown = command("prune", model, "-o", once, "--experts", "0:1,4", "--json")
    assert shown.exit_code == 0 and shown.document["plan"]["experts"][0]["removed"] == "1,4"
    assert command("prune", once, "-o", twice, "--experts", "moe.0:0").exit_code == 0
    for original in (model, once):
        assert command("validate", original, twice).exit_code == 0
    (left,) = command("inspect", twice, "--json").document["mixtures"]
    assert (left["num_experts"], left["removed"], left["chosen_per_token"]) == (3, [0, 1, 4], 2)
    assert left["bytes_per_expert"] == left["bytes"] // 3 == 4 * (4 + 4 * 5 + 5 + 5 * 4 + 4)
    assert "1 mixture-of-experts block, 3 experts (--experts)" in command("inspect", twice).stdout
    again = command("prune", once, "-o", tmp_path / "no.onnx", "--experts", "0:4")
    assert again.exit_code == 2 and "expert 4 of moe.0 (mixture) was removed before" in again.stderr
    few = command("prune", model, "-o", tmp_path / "no.onnx", "--experts", "0:0-4")
    assert few.exit_code == 3 and "1 would be left to choose 2 from" in few.stderr
    assert not (tmp_path / "no.onnx").exists()


@pytest.mark.parametrize(
    ("experts", "field", "told"),
    [("0:1,4", 4, "num_experts 6 -> 4"), ("0:0", 5, "num_experts 6 -> 5")],
)
def test_the_configuration_follows(
    command: Command, tmp_path: Path, experts: str, field: int, told: str
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    _saved(Experts().model(), folder / "model.onnx")
    (folder / "config.json").write_text('{"num_experts": 6}', "utf-8")
    shown = command("prune", folder, "-o", out, "--experts", experts)
    assert shown.exit_code == 0 and told in shown.stdout
    assert json.loads((out / "config.json").read_text("utf-8")) == {"num_experts": field}


SENT = re.compile("tokens|dispatched|in slots|masked|one-hot|picked")
"""Bodies whose experts read what a router has sent to them, or weights that it has picked."""


@pytest.mark.each_choice
@pytest.mark.parametrize(
    "toy", [toy for toy in (TOYS | BY_HAND).values() if not SENT.search(toy.body)], ids=str
)
def test_what_reads_no_token_is_no_expert(toy: Experts) -> None:
    """A mixture weighs outputs of networks: with a stored input they are stored numbers, as the bins of a box."""
    model = toy.model()
    for node in model.graph.node:
        if node.output[0] not in ("r", "out"):
            node.input[:] = ["stored" if name == "x" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(tokens(), "stored"))
    assert inspect(model).of("experts") == ()
