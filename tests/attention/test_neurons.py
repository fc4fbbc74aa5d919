"""Neurons and layers from the command line: cut, recorded, proven, cut again, and refused in a sentence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxheadprune as ohp
from onnxheadprune import RefusedError, UsageError
from onnxheadprune.model.spelling import read_ranges, spelled
from tests.conftest import Command


def _cut(command: Command, model: Path, out: Path, *options: str) -> Mapping[str, Any]:
    result = command("prune", model, "-o", out, *options, "--json")
    assert result.exit_code == 0, result.stderr
    document: Mapping[str, Any] = result.document
    assert document["validation"]["verdict"] == "passed"
    return document


@pytest.mark.slow
def test_heads_neurons_and_sublayers_go_in_one_cut(command: Command, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    words = ("--heads", "0:1", "--neurons", "0:0-63 ffn.3:5", "--layers", "attn.2 ffn.1")
    document = _cut(command, digits, out, *words)
    cuts = {cut["index"]: cut["removed"] for cut in document["plan"]["cuts"] if cut["removed"]}
    assert cuts == {0: [1], 2: list(range(8))}
    neurons = {cut["key"]: cut["removed"] for cut in document["plan"]["neurons"]}
    assert neurons == {"ffn.0": "0-63", "ffn.1": "0-127", "ffn.2": "", "ffn.3": "5"}
    assert document["plan"]["edge_gathers"] == []
    assert command("validate", digits, out).exit_code == 0
    found = command("inspect", out, "--json").document["feed_forward"]
    assert [(block["key"], block["num_neurons"]) for block in found] == [
        ("ffn.0", 64),
        ("ffn.2", 128),
        ("ffn.3", 127),
    ]


@pytest.mark.slow
def test_numbers_are_those_of_the_original(command: Command, digits: Path, tmp_path: Path) -> None:
    """After a cut neuron 64 is still neuron 64, and what is gone cannot go again."""
    once, twice, at_once = (tmp_path / name for name in ("once.onnx", "twice.onnx", "at_once.onnx"))
    _cut(command, digits, once, "--neurons", "0:0-63", "--layers", "ffn.1")
    _cut(command, once, twice, "--neurons", "0:64 2:7", "--heads", "3:2")
    _cut(command, digits, at_once, "--neurons", "0:0-64 2:7", "--heads", "3:2", "--layers", "ffn.1")
    assert command("validate", digits, twice).exit_code == 0
    assert command("validate", once, twice).exit_code == 0
    left, right = (onnx.load(path).graph.initializer for path in (twice, at_once))
    stored = [{t.name: numpy_helper.to_array(t).tobytes() for t in graph} for graph in (left, right)]
    assert stored[0] == stored[1]
    again = command("prune", once, "-o", twice, "--neurons", "0:3")
    assert again.exit_code == 2 and "neuron 3 of ffn.0" in again.stderr
    assert command("prune", once, "-o", twice, "--neurons", "1:3").exit_code == 2


@pytest.mark.slow
def test_a_wrong_neuron_is_seen(command: Command, digits: Path, tmp_path: Path) -> None:
    """The record says neuron 5, and neuron 6 is gone; or one weight is off."""
    right, wrong = tmp_path / "right.onnx", tmp_path / "wrong.onnx"
    _cut(command, digits, right, "--neurons", "2:5")
    model = onnx.load(right)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"removed": "5"', '"removed": "6"')
    onnx.save(model, wrong)
    refused = command("validate", digits, wrong)
    assert refused.exit_code == 1 and "not exact" in refused.stdout + refused.stderr
    model = onnx.load(right)
    tensor = next(t for t in model.graph.initializer if 127 in t.dims)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, wrong)
    assert command("validate", digits, wrong).exit_code == 1


@pytest.mark.slow
def test_the_api_takes_one_spec(digits: Path) -> None:
    made = ohp.prune(digits, heads={"0": [1], "ffn.2": range(64), "layer.3": "*"}, validate=False)
    assert made.plan.removed == {0: (1,), 3: tuple(range(8))}
    assert {cut.key: cut.left for cut in made.plan.blocks} == {
        "ffn.0": 128,
        "ffn.1": 128,
        "ffn.2": 64,
        "ffn.3": 0,
        "layer.0": 1,
        "layer.1": 1,
        "layer.2": 1,
        "layer.3": 0,
    }
    with pytest.raises(UsageError, match="ambiguous"):
        ohp.prune(digits, heads={"ffn.mlp": [1]}, validate=False)


def test_ranges_are_read_as_they_are_spelled() -> None:
    numbers = sorted(np.random.default_rng(0).choice(300, 120, replace=False).tolist())
    assert list(read_ranges(spelled(numbers), 299)) == numbers
    assert read_ranges("", 5) == ()
    for text in ("3-1", "-1", "4-9", "x"):
        with pytest.raises(ValueError, match=r".+"):
            read_ranges(text, 5)


@pytest.mark.slow
def test_the_report_page_counts_neurons(command: Command, digits: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    _cut(command, digits, tmp_path / "out.onnx", "--neurons", "1:0-31", "--report", str(page))
    text = page.read_text(encoding="utf-8")
    assert (
        "32 of 512 neurons of digits_vit.onnx removed" in text
        and "Neurons, block by block" in text
        and "ffn.1 blocks.1.mlp" in text
    )
    _cut(command, digits, tmp_path / "out.onnx", "--heads", "1:0", "--report", str(page))
    assert "neuron" not in page.read_text(encoding="utf-8")


BOUNDS = [
    *itertools.product((0, 2, 6, -3, -8), (2**63 - 1, 7, -1), (1, 2)),
    *itertools.product((-1, 6), (-(2**63), 1), (-1, -3)),
]
"""Starts, ends and steps of slices of eight neurons."""


@pytest.mark.first_case
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_what_only_the_size_of_some_neurons_is_read_of_keeps_it(bounds: tuple[int, int, int]) -> None:
    """Mixtures that fill a part of a row with zeros first (VitPose) read the size of a slice of their neurons."""
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[batch, 5] x) => (float[batch, 3] y) {
            up = MatMul(x, w)
            active = Relu(up)
            down = MatMul(active, v)
            part = Slice(active, start, end, axis, step)
            size = Shape(part)
            ones = ConstantOfShape <value = float[1] {1.0}> (size)
            count = ReduceSum(ones, axis)
            y = Add(down, count)
        }"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(5)
    weights = {"w": random.standard_normal((5, 8)), "v": random.standard_normal((8, 3))}
    numbers = zip(("start", "end", "step"), bounds, strict=True)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in (
            *((name, array.astype(np.float32)) for name, array in weights.items()),
            *((name, np.array([number])) for name, number in numbers),
            ("axis", np.array([1])),
        )
    )
    x = random.standard_normal((4, 5)).astype(np.float32)
    taken = slice(*bounds)
    for gone in ([3], [0, 1, 6], [0, 2, 3, 4, 5, 7]):
        left = [neuron for neuron in range(8) if neuron not in gone]
        whole = len(range(8)[taken])
        if not min(1, whole) <= len(left[taken]) <= whole:
            with pytest.raises(RefusedError, match="only there for its shape"):
                ohp.prune(model, heads={"ffn.0": gone}, provider="cpu")
            continue
        result = ohp.prune(model, heads={"ffn.0": gone}, provider="cpu")
        session = onnxruntime.InferenceSession(
            result.pruned.proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        active = np.maximum(x @ weights["w"], 0)[:, left]
        expected = active @ weights["v"][left] + whole
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)
