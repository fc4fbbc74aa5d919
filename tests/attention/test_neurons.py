"""Neurons and layers from the command line: cut, recorded, proven, cut again, and refused in a sentence."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxheadprune as ohp
from onnxheadprune import RefusedError
from onnxheadprune.display.spelling import read_ranges, spelled


def test_ranges_are_read_as_they_are_spelled() -> None:
    numbers = sorted(np.random.default_rng(0).choice(300, 120, replace=False).tolist())
    assert list(read_ranges(spelled(numbers), 299)) == numbers
    assert read_ranges("", 5) == ()
    for text in ("3-1", "-1", "4-9", "x"):
        with pytest.raises(ValueError, match=r".+"):
            read_ranges(text, 5)


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
