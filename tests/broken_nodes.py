"""Nodes that no exporter writes: for each operator of the rules, one with a part missing, doubled or of a wrong type.

Each replaces nothing: it is put behind a value of a model, so that what reads the value reads the node.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests import attacks
from tests.model.operator_records import RULES

PLACES = ("context", "y")
"""A value with an axis of heads in front of the projection, and the output."""
KINDS = (
    "INT",
    "INTS",
    "FLOAT",
    "FLOATS",
    "STRING",
    "STRINGS",
    "TENSOR",
    "TENSORS",
    "GRAPH",
    "SPARSE_TENSOR",
    "TYPE_PROTO",
)
MOST_INPUTS = 3


def operators_with_rules() -> list[tuple[str, str]]:
    """Each operator that a live set is followed through, as domain and name."""
    return RULES


def attribute_of(name: str, kind: str) -> AttributeProto:
    """An attribute of a type, small and valid in itself."""
    made = AttributeProto(name=name, type=AttributeProto.AttributeType.Value(kind))
    match kind:
        case "INT":
            made.i = 7
        case "INTS":
            made.ints.extend([-1, 0, 99])
        case "FLOAT":
            made.f = float("nan")
        case "FLOATS":
            made.floats.extend([0.5, float("inf")])
        case "STRING":
            made.s = b"\xff\xfe"
        case "STRINGS":
            made.strings.extend([b"", b"\xff"])
        case "TENSOR":
            made.t.CopyFrom(numpy_helper.from_array(np.array([b"\xff"], dtype=object), "text"))
        case "TENSORS":
            made.tensors.append(numpy_helper.from_array(np.zeros((0, 2)), "none"))
        case "GRAPH":
            made.g.CopyFrom(GraphProto(name="empty"))
        case "SPARSE_TENSOR":
            made.sparse_tensor.dims.append(2)
        case "TYPE_PROTO":
            made.tp.tensor_type.elem_type = TensorProto.FLOAT
    return made


def _schema(domain: str, op_type: str) -> onnx.defs.OpSchema | None:
    return onnx.defs.get_schema(op_type, 17, domain) if onnx.defs.has(op_type, 17, domain) else None


def broken(domain: str, op_type: str, source: str, target: str) -> Iterator[tuple[str, NodeProto]]:
    """Broken nodes of one operator that read one value and make another, with what is wrong in each."""

    def node(inputs: list[str], outputs: list[str], *attributes: AttributeProto) -> NodeProto:
        made = helper.make_node(op_type, inputs, outputs, name="broken", domain=domain)
        made.attribute.extend(attributes)
        return made

    for count in range(1, MOST_INPUTS + 1):
        yield f"{count} equal inputs", node([source] * count, [target])
    yield "no inputs", node([], [target])
    yield "an empty input", node([""], [target])
    yield "empty inputs before one", node(["", "", source], [target])
    yield "an input of nobody", node([source, "nobody"], [target])
    yield "no outputs", node([source], [])
    yield "an empty output", node([source], [""])
    if op_type != "Split":  # whose kernel in ONNX Runtime 1.31 ends the process
        yield "an empty output before one", node([source], ["", target])
    yield "an output twice", node([source], [target, target])
    yield "its own input", node([target], [target])
    yield "text for an input", node([source, "text"], [target])
    yield "many outputs", node([source], [target, *(f"more{index}" for index in range(9))])
    schema = _schema(domain, op_type)
    for name in [*(schema.attributes if schema else ("axis", "num_heads")), "unheard_of"]:
        for kind in KINDS:
            yield f"{name} as {kind}", node([source], [target], attribute_of(name, kind))
        yield f"{name} without a type", node([source], [target], AttributeProto(name=name))
        twice = [helper.make_attribute(name, value) for value in (0, 1)]
        yield f"{name} twice", node([source], [target], *twice)


def with_broken(model: ModelProto, value: str, node: NodeProto) -> ModelProto:
    """A copy of a model in which a node of `broken` for `{value}/raw` and `{value}` stands behind a value."""
    copy = ModelProto.FromString(model.SerializeToString())
    text = numpy_helper.from_array(np.array([b"\xff"], dtype=object), "text")
    if "text" in node.input:
        copy.graph.initializer.append(text)
    if node.domain and node.domain not in {item.domain for item in copy.opset_import}:
        copy.opset_import.append(helper.make_opsetid(node.domain, 1))
    attacks.behind(copy, value, NodeProto.FromString(node.SerializeToString()))
    return copy
