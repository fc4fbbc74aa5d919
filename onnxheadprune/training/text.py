"""ONNX text as nodes under other names."""

from __future__ import annotations

from collections.abc import Callable

from onnx import NodeProto, parser


def nodes_of(text: str, spelled: Callable[[str], str]) -> list[NodeProto]:
    """The nodes of some lines.

    Args:
        text: a node per line, as in "sum = Add(one, other)".
        spelled: what a name of the text is called in the model.
    """
    nodes = [parser.parse_node(line) for line in text.splitlines() if line.strip()]
    for node in nodes:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = spelled(name)
    return nodes
