"""Random nodes with fixed numbers: the form in which models are compared, measured and trained.

Each operator of the standard that draws numbers is replaced by others that compute them from positions: the same
numbers in every run, and in every model in which the tensor has the same shape, whatever the node is called and
wherever it stands. Limits, probabilities and logits still count. Dropout in training mode runs in inference mode, so
that a cut may narrow what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.edit.nodes_random import CONTRIB, FixedNumbers
from onnxheadprune.model.bodies import bodies_of, constant_tensor, graphs_in, is_constant
from onnxheadprune.model.graph.operator import (
    DRAWS,
    DRAWS_OUTSIDE_STANDARD,
    kind,
    operator_of,
    opset_of,
)
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied, insert_nodes

RANDOM = DRAWS | DRAWS_OUTSIDE_STANDARD | kind("Dropout")
"""The operators that draw random numbers, some of them in training mode only."""


def random_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes that draw random numbers, in bodies too.

    Those of local functions are among them once the functions are inlined.
    """
    return [node for _, node, _ in _found(model.graph, {})]


def label(node: NodeProto) -> str:
    """A node as messages name it."""
    return f"{node.op_type} ({node.name or next(filter(None, node.output), 'without outputs')})"


def without_randomness(model: LoadedModel) -> LoadedModel:
    """The model with fixed numbers instead of random ones; itself where it draws none."""
    if not any(_is_fixed(node) for node in random_nodes(model.proto)):
        return model
    made = copied(model.proto)
    opset, types = opset_of(made), _declared_types(made)
    for graph, node, position in reversed(list(_found(made.graph, {}))):
        if not _is_fixed(node):
            continue
        mode = _mode_of(node)
        if mode is not None:
            node.input[mode] = ""
            continue
        replacement = FixedNumbers(node, opset, types).made
        del graph.node[position]
        insert_nodes(graph, {position: replacement})
    if all(item.domain != CONTRIB for item in made.opset_import):
        made.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return model.changed(made)


def _found(
    graph: GraphProto, outer: Mapping[str, TensorProto]
) -> Iterator[tuple[GraphProto, NodeProto, int]]:
    """Random nodes with their graphs and positions: in order, those in a body before the node that owns it."""
    stored = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for position, node in enumerate(graph.node):
        for body in bodies_of(node):
            yield from _found(body, stored)
        tensor = constant_tensor(node) if is_constant(node) else None
        if tensor is not None:
            stored[node.output[0]] = tensor
        if _is_random(node, stored):
            yield graph, node, position


def _is_random(node: NodeProto, stored: Mapping[str, TensorProto]) -> bool:
    if node not in RANDOM:
        return False
    position = _mode_of(node)
    if position is None:
        return True
    name = "".join(node.input[position : position + 1])
    mode = stored.get(name)
    return bool(name) and (mode is None or bool(numpy_helper.to_array(mode).any()))


def _mode_of(node: NodeProto) -> int | None:
    """The position of the input without which an operator draws nothing; None for one that always draws."""
    roles = operator_of(node).roles
    return None if roles is None else roles.training_mode


def _is_fixed(node: NodeProto) -> bool:
    """Return whether a random node gets fixed numbers: all but ONNX Runtime's own."""
    return node in DRAWS | kind("Dropout")


def _declared_types(model: ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for graph in graphs_in(model.graph):
        found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        for infos in (graph.input, graph.value_info, graph.output):
            found |= {info.name: info.type.tensor_type.elem_type for info in infos}
    return found
