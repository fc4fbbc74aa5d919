"""Fused attention whose heads cannot be told: which of its inputs or attributes is to blame."""

from __future__ import annotations

from pathlib import Path

from onnxheadprune.attention.sites.find import inspect
from tests import golden_file

FUSED = Path(__file__).parents[1] / "golden" / "fused_multi_head.txt"


def test_counts_that_do_not_fit_the_widths_are_said() -> None:
    model = golden_file.read(FUSED).model
    (node,) = [item for item in model.graph.node if item.op_type == "MultiHeadAttention"]
    node.attribute[0].i = 4
    (missed,) = inspect(model).to_dict()["near_misses"]
    assert missed["reason"].startswith("the widths that MultiHeadAttention reads and the head counts")
    assert missed["node"] == "MultiHeadAttention -> context"


def test_inputs_of_unknown_shape_are_named() -> None:
    model = golden_file.read(FUSED).model
    (node,) = [item for item in model.graph.node if item.op_type == "MultiHeadAttention"]
    made = type(node)(op_type="Mystery", domain="nowhere", input=["q"], output=["q_unknown"])
    node.input[0] = "q_unknown"
    nodes = [type(node).FromString(item.SerializeToString()) for item in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], made, *nodes[1:]])
    model.opset_import.add(domain="nowhere", version=1)
    (missed,) = inspect(model).to_dict()["near_misses"]
    assert (
        missed["reason"]
        == "the shapes that MultiHeadAttention reads are not known (q_unknown); fixed sizes would not help"
    )
