"""New nodes as edits, and how they are stored."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from onnx import NodeProto, helper, parser

from onnxheadprune.edit.edits import MARK, Attribute, InsertNode
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.operator import schema_of
from onnxheadprune.model.graph.view import Node, Scope

COMPARES_INTEGERS = 12
"""The opset since which Max and Min take integers."""


def nodes_of_text(text: str, spelled: Callable[[str], str]) -> list[NodeProto]:
    """The nodes of some lines."""
    nodes = [parser.parse_node(line) for line in text.splitlines() if line.strip()]
    for node in nodes:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = spelled(name)
    return nodes


def new(before: str, op_type: str, inputs: Sequence[str], output: str, **attributes: Attribute) -> InsertNode:
    """A node with one output, before another one."""
    return InsertNode(before, op_type, tuple(inputs), (output,), tuple(attributes.items()))


def normalized(before: str, skip: Node, total: str, learned: Sequence[str], output: str) -> InsertNode:
    """The norm of a state, as an operator that adds and normalizes computes it of its sum."""
    attributes = (("axis", -1), ("epsilon", float(skip.attribute("epsilon", 1e-12))))
    return InsertNode(before, skip.op_type.removeprefix("Skip"), (total, *learned), (output,), attributes)


def as_proto(edit: InsertNode, opset: int | None = None) -> NodeProto:
    """A new node as it is stored, named after what it gives.

    Args:
        opset: of the graph; None for an operator that all opsets have alike.

    Raises:
        RefusedError: if the opset lacks the operator.
    """
    if (
        opset is not None
        and not edit.domain
        and edit.op_type not in _OF_RUNTIME
        and not _is_defined(edit, opset)
    ):
        raise RefusedError(
            f"{edit.outputs[0].partition(f'/{MARK}')[0]} needs a new {edit.op_type} as newer opsets define it, and the"
            f" model has opset {opset}: raise it with onnx.version_converter.convert_version"
        )
    output = edit.outputs[0]
    # No exporter gave the name to a node of its own.
    name = output if MARK in output else f"{output}/{MARK}"
    node = helper.make_node(
        edit.op_type, list(edit.inputs), list(edit.outputs), name=name, domain=edit.domain
    )
    node.attribute.extend(helper.make_attribute(key, value) for key, value in edit.attributes)
    return node


def _is_defined(edit: InsertNode, opset: int) -> bool:
    """Return whether the standard has the operator in an opset, with as many inputs and these attributes."""
    schema = schema_of(edit.op_type, opset)
    if schema is None or opset < _AS_WRITTEN.get(edit.op_type, 0):
        return False
    return len(edit.inputs) <= schema.max_input and all(
        key in schema.attributes for key, _ in edit.attributes
    )


_OF_RUNTIME = ("LayerNormalization", "SimplifiedLayerNormalization")
"""Operators that ONNX Runtime has in the standard's domain in every opset."""
_AS_WRITTEN = {"Max": 8, "Min": 8, "Less": 9}
"""The opset since which operators take inputs of several shapes, or whole numbers."""


def free_name(scope: Scope, wanted: str) -> str:
    """A name for a new value that no value of a scope has yet.

    Values that an earlier cut made are sources of new ones: one that had the name of its own source would read itself.
    """
    return numbered(wanted, scope.values)


def numbered(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or `wanted` and the first number that make a name which is not taken."""
    free, number = wanted, 2
    while free in taken:
        free, number = f"{wanted}.{number}", number + 1
    return free
