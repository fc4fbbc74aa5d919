"""The conditions of merged models, and the model for one answer."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune.edit.both_branches import BRANCHES
from onnxheadprune.edit.nodes import as_proto, same
from onnxheadprune.edit.submodel import needed_nodes
from onnxheadprune.model.graph.facts import CHOOSES
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.messages import copied, keep, replace_all


def flag_choices(view: GraphView) -> tuple[Node, ...]:
    """The nodes of the main graph that choose between two branches, if all of them ask the same graph input."""
    nodes = tuple(node for node in view.main.nodes if node in CHOOSES)
    flags = {node.inputs[0] for node in nodes}
    asked = next(iter(flags), None)
    alone = len(flags) == 1 and asked is not None and asked.is_graph_input and not asked.is_initializer
    return nodes if alone else ()


def with_answer(view: GraphView, answer: bool) -> ModelProto | None:
    """The model for one answer of its flag: the branches that are run then take the place of the choice.

    Values and stored tensors keep their names; inputs that nobody reads any more are gone.

    The model; None where it asks no flag, or names mean one thing in a branch and another one outside.
    """
    choices = {node.position: node for node in flag_choices(view)}
    if not choices:
        return None
    made, nodes = copied(view.model), list[NodeProto]()
    for position, node in enumerate(view.model.graph.node):
        choice = choices.get(position)
        if choice is None:
            nodes.append(node)
            continue
        body = choice.bodies[BRANCHES[answer]].proto
        nodes.extend(_inlined(body, node))
        made.graph.initializer.extend(body.initializer)
        made.graph.sparse_initializer.extend(body.sparse_initializer)
        made.graph.value_info.extend(body.value_info)
    replace_all(made.graph.node, nodes)
    if not _is_unambiguous(made.graph):
        return None
    _drop_unread(made.graph)
    return made


def _inlined(body: GraphProto, choice: NodeProto) -> Iterator[NodeProto]:
    yield from body.node
    for inner, outer in zip(body.output, choice.output, strict=True):
        if outer and inner.name != outer:
            yield as_proto(same("", inner.name, outer))


def _is_unambiguous(graph: GraphProto) -> bool:
    """Return whether every name is given once."""
    given = [name for node in graph.node for name in node.output if name]
    given += [tensor.name for tensor in graph.initializer]
    stored = {tensor.name for tensor in graph.initializer}
    given += [item.name for item in graph.input if item.name not in stored]
    return len(given) == len(set(given))


def _drop_unread(graph: GraphProto) -> None:
    nodes, needed = needed_nodes(graph, [item.name for item in graph.output])
    replace_all(graph.node, nodes)
    for field in (graph.input, graph.initializer):
        keep(field, lambda item: item.name in needed)
