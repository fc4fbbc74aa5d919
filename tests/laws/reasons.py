"""Reasons as claims: what a near miss or a site says of the graph, checked against the graph by other code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from onnx import ModelProto

from onnxheadprune.attention.sites.attention_near_misses import LeftOut
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.fixed_sizes import TRIED
from onnxheadprune.attention.sites.near_miss import NearMiss
from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.operators import view_of

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


def check_reasons(view: GraphView, sites: list[AttentionSite], left: LeftOut) -> None:
    """Check every claim of these sites and near misses.

    Raises:
        AssertionError: if one is not true of the graph.
    """
    nodes = {node.label: node for node in view.nodes}
    for miss in left.no_heads:
        assert "one map for all channels" in miss.reason.sentence
        _check_one_map(view, nodes[miss.node])
    for miss in left.near_misses:
        for claim, check in CLAIMS.items():
            if found := re.search(claim, miss.reason.sentence):
                check(view, nodes, miss, found)
    for site in sites:
        if site.reason is not None:
            _check_site(view, nodes, site, site.reason.sentence)


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


def _check_no_weights(view: GraphView, nodes: dict[str, Node], miss: NearMiss, found: re.Match[str]) -> None:
    layers = [node for node in _below(nodes[miss.node], _ends) if _is_layer(node)]
    assert not layers, f"{layers[0].label} has weights"


def _check_alike(view: GraphView, nodes: dict[str, Node], miss: NearMiss, found: re.Match[str]) -> None:
    layer = nodes[found[1]]
    weights = [value for value in layer.inputs[1:] if value is not None and _is_stored(value)]
    for value in weights:
        stacked = [dim for dim in (value.shape or ())[:-2] if dim != 1]
        assert layer.op_type != "MatMul" or not stacked, f"{value.name} has {stacked} matrices"


def _check_followed(view: GraphView, nodes: dict[str, Node], miss: NearMiss, found: re.Match[str]) -> None:
    hiding = nodes[found[1]]
    assert hiding in set(_below(nodes[miss.node], lambda node: False)), (
        f"{hiding.label} is not below {miss.node}"
    )


def _check_fixed(view: GraphView, nodes: dict[str, Node], miss: NearMiss, found: re.Match[str]) -> None:
    helps = any(nodes[miss.node].ref in _cores_with(view.model, *sizes) for sizes in TRIED)
    assert helps == (found[0] == "its heads are found")


def _cores_with(model: ModelProto, batch: int, length: int) -> set[str]:
    """The cores of sites with several heads in the model with fixed inputs."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for info in fixed.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                dim.dim_value = length if axis else batch
    del fixed.graph.value_info[:]
    for info in fixed.graph.output:
        info.type.tensor_type.ClearField("shape")
    try:
        sites, _ = find_structural(view_of(fixed))
    except Exception:  # What does not fit these sizes has no sites with them.
        return set()
    return {core.ref for site in sites if site.num_heads > 1 for core in site.cores}


CLAIMS = {
    "there are no weights to cut": _check_no_weights,
    r"and (.+) has no weights of single heads": _check_alike,
    r"its heads cannot be followed through ([^:;]+?)(?:[:;,]|$)": _check_followed,
    r"its heads are found|fixed sizes would not help": _check_fixed,
}
"""What a sentence says, and the check of it."""


def _check_site(view: GraphView, nodes: dict[str, Node], site: AttentionSite, sentence: str) -> None:
    assert "needed whole elsewhere" not in sentence, "no reader is named"
    found = re.search(r"the context also reaches (.+) without passing an output projection", sentence)
    if found is not None:
        reader = nodes[found[1]]
        projections = {item.node for item in site.projections}
        beside = set().union(*(_below(core, lambda node: node in projections) for core in site.cores))
        assert reader in beside and reader not in projections
        ahead = {reader, *_below(reader, lambda node: node in projections)}
        leaves = [output for node in ahead - projections for output in node.outputs if output is not None]
        assert any(output.is_graph_output for output in leaves), f"{reader.label} leads to projections alone"
