"""One cache for all layers, written row by row: each row keeps the heads of its own layer, on the way in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnxheadprune import prune
from tests.graph_text import model_of
from tests.liveness.one_node import run

HEADER = """
<ir_version: 8, opset_import: ["" : 17]>
decoder (float[2,1,8] x, float[2,2,2,4,6,2] cache) => (float[2,1,8] y, float[2,2,2,4,6,2] new)
<
  float[8,8] q_0, float[8,8] k_0, float[8,8] v_0, float[8,8] o_0, float[8,8] q_1, float[8,8] k_1, float[8,8] v_1,
  float[8,8] o_1, int64[4] apart = {0, 0, 4, 2}, int64[3] joined = {0, 0, 8}, int64[6] row = {1, 1, 2, 4, 6, 2},
  int64[1] second = {1}, int64[1] end = {99}, int64[1] axis = {2}, int64 zero = {0}, int64 one = {1},
  int64[1,1,2] at_0_0 = {0, 0}, int64[1,1,2] at_0_1 = {0, 1}, int64[1,1,2] at_1_0 = {1, 0}, int64[1,1,2] at_1_1 = {1, 1}
>
{
"""
WRITE = """
  {w}_{i}a = MatMul ({x}, {w}_{i})
  {w}_{i}b = Reshape ({w}_{i}a, apart)
  {w}_{i}c = Transpose <perm = [0, 2, 1, 3]> ({w}_{i}b)
  {w}_{i}d = Gather <axis = 0> ({old}, {index})
  {w}_{i}e = Gather <axis = 0> ({w}_{i}d, {part})
  {w}_{i}f = Slice ({w}_{i}e, second, end, axis)
  {w}_{i}g = Concat <axis = 2> ({w}_{i}f, {w}_{i}c)
  {w}_{i}h = Reshape ({w}_{i}g, row)
  {new} = ScatterND ({old}, at_{place}, {w}_{i}h)
  {w}_{i}i = Gather <axis = 0> ({new}, {index})
  {w}_{i}j = Gather <axis = 0> ({w}_{i}i, {part})
"""
READ = """
  q_{i}a = MatMul ({x}, q_{i})
  q_{i}b = Reshape (q_{i}a, apart)
  q_{i}c = Transpose <perm = [0, 2, 1, 3]> (q_{i}b)
  keys_{i} = Transpose <perm = [0, 1, 3, 2]> (k_{i}j)
  scores_{i} = MatMul (q_{i}c, keys_{i})
  weights_{i} = Softmax <axis = -1> (scores_{i})
  context_{i} = MatMul (weights_{i}, v_{i}j)
  back_{i} = Transpose <perm = [0, 2, 1, 3]> (context_{i})
  flat_{i} = Reshape (back_{i}, joined)
  {y} = MatMul (flat_{i}, o_{i})
"""


def decoder() -> ModelProto:
    """Two layers; the cache is [layer, keys or values, batch, head, token, channel]."""
    text, old = HEADER, "cache"
    for i, (x, y, index) in enumerate((("x", "h", "zero"), ("h", "y", "one"))):
        for w, part, place in (("k", "zero", 0), ("v", "one", 1)):
            new = "new" if (i, place) == (1, 1) else f"cache_{i}_{place}"
            text += WRITE.format(
                w=w, i=i, x=x, old=old, new=new, index=index, part=part, place=f"{i}_{place}"
            )
            old = new
        text += READ.format(i=i, x=x, y=y)
    return model_of(text + "}")


def numbers(*shape: int) -> Any:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def silenced(model: ModelProto, gone: dict[int, list[int]]) -> ModelProto:
    """The original with zeros in the rows of the projections that read the heads."""
    found = ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        for layer, heads in gone.items():
            if tensor.name == f"o_{layer}":
                rows = np.frombuffer(tensor.raw_data, np.float32).reshape(8, 8).copy()
                for head in heads:
                    rows[2 * head : 2 * head + 2] = 0
                tensor.raw_data = rows.tobytes()
    return found


@pytest.mark.parametrize(
    "gone", [{0: [1], 1: [1]}, {0: [1], 1: [2]}, {0: [0, 3], 1: [1, 2]}], ids=["same", "others", "halves"]
)
def test_each_row_keeps_the_heads_of_its_layer(gone: dict[int, list[int]]) -> None:
    model = decoder()
    result = prune(model, heads=gone)
    left = {layer: [head for head in range(4) if head not in heads] for layer, heads in gone.items()}
    size = len(left[0])
    assert sorted(result.plan.io_changes) == [
        f"input cache: 4 -> {size} on axis 3",
        f"output new: 4 -> {size} on axis 3",
    ]
    assert result.plan.edge_gathers == ()
    _steps(silenced(model, gone), result.model, left)


def test_rows_that_keep_different_numbers_keep_all() -> None:
    model, gone = decoder(), {0: [1], 1: [0, 2]}
    result = prune(model, heads=gone)
    assert result.plan.io_changes == ()
    _steps(silenced(model, gone), result.model, {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}, dead=gone)


def test_a_cache_that_leaves_under_other_axes_keeps_all() -> None:
    """Behind a Transpose to [keys or values, layer, batch, head, token, channel] nobody tells which rows are whose."""
    model, gone = _transposed(decoder()), {0: [1], 1: [2]}
    result = prune(model, heads=gone)
    assert result.plan.io_changes == ()
    _steps(
        silenced(model, gone), result.model, {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}, dead=gone, kinds_first=True
    )


def _transposed(model: ModelProto) -> ModelProto:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = "written" if name == "new" else name
    model.graph.node.append(helper.make_node("Transpose", ["written"], ["new"], perm=[1, 0, 2, 3, 4, 5]))
    return model


def _steps(
    want: ModelProto,
    got: ModelProto,
    left: dict[int, list[int]],
    dead: dict[int, list[int]] | None = None,
    kinds_first: bool = False,
) -> None:
    """Three steps, each with the cache that the one before gave."""
    whole = numbers(2, 2, 2, 4, 6, 2)
    narrow = np.stack([whole[layer][:, :, left[layer]] for layer in (0, 1)])
    for step in range(3):
        x = numbers(2, 1, 8) * (step + 1)
        expected, found = run(want, {"x": x, "cache": whole}), run(got, {"x": x, "cache": narrow})
        np.testing.assert_allclose(found["y"], expected["y"], atol=1e-5)
        whole, narrow = expected["new"], found["new"]
        if kinds_first:
            whole, narrow = whole.swapaxes(0, 1), narrow.swapaxes(0, 1)
        for layer, heads in left.items():
            alive = [head for head in heads if head not in (dead or {}).get(layer, ())]
            places = [heads.index(head) for head in alive]
            np.testing.assert_allclose(narrow[layer][:, :, places], whole[layer][:, :, alive], atol=1e-5)
