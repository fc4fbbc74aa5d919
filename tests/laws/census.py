"""Products of attention weights and values, told by a walk that knows nothing of sites."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune import Sites

PRODUCTS = ("MatMul", "Einsum", "Gemm")


def check_census(model: ModelProto, sites: Sites) -> None:
    """Each product behind a softmax is in one list: a site, a near miss, or no heads.

    Raises:
        AssertionError: if one is in none or in two; one that only cores read, or nothing, is in none.
    """
    cores = {node.out.name for site in sites for node in site.cores}
    listed = [*cores, *(miss.reason.value for miss in (*sites.near_misses, *sites.no_heads))]
    parts = _parts_of(model.graph, cores)
    for node in _behind_softmax(model.graph):
        expected = node.output[0] in cores or node.output[0] not in parts
        assert listed.count(node.output[0]) == expected, f"{node.name or node.output[0]} is listed otherwise"


def _behind_softmax(graph: GraphProto) -> Iterator[NodeProto]:
    """The first products of two computed values that read a softmax."""
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    computed |= {info.name for info in graph.input} - {tensor.name for tensor in graph.initializer}
    maps: set[str] = set()
    for node in graph.node:
        reads = maps & set(node.input)
        if node.op_type in PRODUCTS and node.domain == "":
            if reads and len(computed & set(node.input)) > 1:
                yield node
        elif reads or node.op_type == "Softmax":
            maps |= set(node.output)


def _parts_of(graph: GraphProto, cores: set[str]) -> set[str]:
    """Values that are read, in the end, by cores of sites alone, or by nothing."""
    outputs = {info.name for info in graph.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: set[str] = set()
    for node in reversed(graph.node):
        below = [other for name in node.output for other in readers.get(name, [])]
        if (below or not outputs & set(node.output)) and all(
            set(other.output) & cores or set(other.output) & found for other in below
        ):
            found |= set(node.output)
    return found
