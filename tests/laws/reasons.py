"""Reasons as claims: what a near miss or a site says of the graph, checked against the graph by other code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from onnxheadprune import AttentionSite, Reason, Refusal, Sites
from onnxheadprune.model.graph.view import GraphView, Node, Value

SUMS_PRODUCTS = re.compile("MatMul|Gemm|Einsum|Conv")
STAGES_OF_WEIGHTS = {
    "Gather",
    "GatherND",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Cast",
    "DequantizeLinear",
}


def check_reasons(view: GraphView, sites: Sites) -> None:
    """Check every claim of sites and near misses.

    Raises:
        AssertionError: if one is not true of the graph.
    """
    nodes = {node.label: node for node in view.nodes}
    for miss in sites.no_heads:
        assert "one map for all channels" in miss.reason.sentence
        _check_one_map(view, nodes[miss.node])
    for miss in sites.near_misses:
        _check_end(nodes[miss.node], nodes[miss.reason.node], miss.reason)
    for site in sites:
        if site.reason is not None:
            _check_site(nodes, site, site.reason.sentence)


def _below(start: Node, ends: Callable[[Node], bool]) -> Iterator[Node]:
    """All nodes below one, not looking behind those that end the walk."""
    seen, waiting = set(), [start]
    while waiting:
        node = waiting.pop()
        if node is not start and ends(node):
            continue
        for output in node.outputs:
            for use in output.consumers if output is not None else ():
                if use.node not in seen:
                    seen.add(use.node)
                    waiting.append(use.node)
    return iter(seen)


def _is_stored(value: Value | None) -> bool:
    """Whether a value is a weight: stored, or picked from a stored stack of matrices."""
    while value is not None and not value.is_constant:
        maker = value.producer
        if maker is None or maker.op_type not in STAGES_OF_WEIGHTS:
            return False
        if maker.op_type.startswith("Gather") and len(maker.shape(0) or ()) < 3:
            return False
        value = maker.inputs[0]
    return value is not None


def _is_layer(node: Node) -> bool:
    return bool(SUMS_PRODUCTS.search(node.op_type)) and any(map(_is_stored, node.inputs[1:]))


def _ends(node: Node) -> bool:
    """Whether a context ends at a node: at a contraction, or where it is added to a stream."""
    added = [value for value in node.inputs if value is not None and not value.is_constant]
    return bool(SUMS_PRODUCTS.search(node.op_type)) or (node.op_type in ("Add", "Sum") and len(added) > 1)


def _check_one_map(view: GraphView, node: Node) -> None:
    """No axis in front of the last two is a number above 1, or of unknown meaning."""
    named = {
        dim.dim_param
        for info in view.model.graph.input
        for dim in info.type.tensor_type.shape.dim
        if dim.dim_param
    }
    if node.op_type == "MatMul" and node.out.shape is not None and node.scope is view.main:
        for dim in node.out.shape[:-2]:
            atoms = set(re.split(r"[^\w]+", str(dim))) - {""}
            assert dim == 1 or atoms <= named | {"1"}, f"{node.label} may have {dim} heads"


def _check_end(product: Node, end: Node, reason: Refusal) -> None:
    """Heads end at a node below the product or around it; where nothing sums them up, no layer reads them alone."""
    around = {owner for owner, _ in product.scope.owners}
    assert end.label in reason.sentence
    assert end is product or end in around or end in set(_below(product, lambda node: False))
    if end is product and reason.reason is Reason.NO_PROJECTION:
        assert not [node for node in _below(product, _ends) if _is_layer(node)]


def _check_site(nodes: dict[str, Node], site: AttentionSite, sentence: str) -> None:
    found = re.fullmatch(r"(.+) needs .+ with all heads", sentence)
    if found is not None:
        reader = nodes[found[1]]
        projections = {item.node for item in site.projections}
        beside = set().union(*(_below(core, lambda node: node in projections) for core in site.cores))
        assert reader in beside and reader not in projections
