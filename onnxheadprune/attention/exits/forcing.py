"""The original whose decisions are forced: the oracle of a model in which an exit is for good.

The graph stays as it is, with all branches and turns in it; only what conditions read is replaced. So it has nothing in
common with the code that takes branches out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from onnxheadprune.attention.exits.decisions import GOING_OUT, Decision, held
from onnxheadprune.attention.masking import graph_of
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK
from onnxheadprune.model.graph.view import GraphView, Node, Value

NAME = f"{MARK}_forced"


def forced(view: GraphView, decisions: Iterable[Decision]) -> ModelProto:
    """A copy of a model in which conditions are held at an answer, whatever is computed."""
    decisions = tuple(decisions)
    made = ModelProto()
    made.CopyFrom(view.model)
    for position, (value, answer) in enumerate(held(decisions).items()):
        array = np.full((1,) if value.shape == (1,) else (), answer)
        made.graph.initializer.append(numpy_helper.from_array(array, f"{NAME}{position}"))
        _hold(made, value, f"{NAME}{position}")
    for position, decision in enumerate(decisions):
        if decision.turns is not None:
            _end_after(made, decision.node, decision.turns, f"{NAME}_turns{position}")
    return made


def otherwise(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The same but for the last one, which is decided the other way: one turn more, for a Loop."""
    *before, last = decisions
    if last.turns is not None:
        return (*before, Decision(last.node, turns=last.turns + 1))
    return (*before, Decision(last.node, answer=not last.answer))


def _hold(model: ModelProto, value: Value, name: str) -> None:
    """Lets all readers of a value read a constant in its place."""
    for use in value.consumers:
        _proto(model, use.node).input[use.input_index] = name
    node = value.producer
    if node is None or not value.is_graph_output:
        return
    # What a graph or a body gives out keeps its name; what was computed gets another one.
    _proto(model, node).output[value.output_index] = f"{value.name}/{NAME}"
    graph_of(model, node).node.append(nodes.as_proto(nodes.same("", name, value.name)))


def _end_after(model: ModelProto, node: Node, turns: int, name: str) -> None:
    """Lets the body of a Loop go on until it has run often enough, however it decides."""
    loop = _proto(model, node)
    loop.input[1] = ""
    (attribute,) = (item for item in loop.attribute if item.name in node.bodies)
    body = attribute.g
    last = numpy_helper.from_array(np.array(turns - 1, dtype=np.int64), f"{name}_last")
    model.graph.initializer.append(last)
    body.node.extend(nodes.as_protos(nodes.less("", body.input[0].name, last.name, name), node.opset))
    body.output[GOING_OUT].name = name


def _proto(model: ModelProto, node: Node) -> NodeProto:
    found: NodeProto = graph_of(model, node).node[node.position]
    return found
