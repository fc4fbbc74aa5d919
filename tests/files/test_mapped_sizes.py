"""Refits of models around the size from which ONNX Runtime maps weights from their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxheadprune import prune
from onnxheadprune.model.load import MAPPED_FROM, stored_bytes
from tests.graphs import toys

HEADS, HIDDEN = 8, 160
HEADS_TO_REMOVE = {0: [1, 2, 3, 4]}


def model_with(extra: int) -> onnx.ModelProto:
    """Attention, and behind it a linear layer of 102 kB, which is refitted but not cut."""
    model = toys.attention(heads=HEADS, hidden=HIDDEN, extra_weight=extra)
    toys.set_initializer(model, "extra.weight", np.zeros(extra, np.float32))
    weight = np.random.default_rng(1).standard_normal((HIDDEN, HIDDEN)).astype(np.float32) / HIDDEN
    model.graph.initializer.append(numpy_helper.from_array(weight, "behind.weight"))
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["y", "behind.weight"], ["behind"]),
            helper.make_node("Add", ["y", "behind"], ["z"]),
        ]
    )
    model.graph.output[0].name = "z"
    return model


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("above", "pruned_above"), [(True, True), (True, False), (False, False)], ids=["above", "across", "below"]
)
def test_a_refit_does_not_depend_on_the_size(above: bool, pruned_above: bool, tmp_path: Path) -> None:
    bare = model_with(1)
    cut = stored_bytes(bare) - stored_bytes(prune(bare, heads=HEADS_TO_REMOVE, validate=False).model)
    room = 2 * cut if pruned_above else cut // 2 if above else -cut
    extra = (MAPPED_FROM + room - stored_bytes(bare)) // 4
    onnx.save(model_with(extra), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((64, 8, HIDDEN)).astype(np.float32)
    found = prune(
        tmp_path / "model.onnx",
        tmp_path / "out.onnx",
        heads=HEADS_TO_REMOVE,
        data={"x": x},
        refit=True,
        provider="cpu",
    )
    sizes = [stored_bytes(onnx.load(tmp_path / name)) for name in ("model.onnx", "out.onnx")]
    assert [size > MAPPED_FROM for size in sizes] == [above, pruned_above]
    assert found.validation is not None and found.validation.verdict == "passed"
    assert found.chosen is not None and len(found.chosen.compensation.done) == 2
