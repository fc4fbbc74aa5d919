"""The graphs inside a node: branches of an If, the body of a Loop or a Scan."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds in its attributes, themselves and not copies."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
