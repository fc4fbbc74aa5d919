"""Fixed conditions: the branches that run then, other conditions that are known, and the forced original.

The forced original is what a model with a permanent exit is compared with. All branches and iterations stay in its
graph; only the inputs of conditions are replaced. So it shares no code with the removal of branches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxheadprune.attention.masking import graph_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit import nodes
from onnxheadprune.edit.bodies import BRANCHES
from onnxheadprune.edit.edits import MARK
from onnxheadprune.model.graph.elements import number_of
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.messages import copied

GOING_IN, GOING_OUT = 1, 0
"""The input of a Loop's body that says whether the last turn wanted another one; the output that says it of this."""
FORCED = f"{MARK}_forced"


@dataclass(frozen=True, eq=False)
class Decision:
    """A condition with its fixed value."""

    node: Node  # the If or Loop that reads it
    answer: bool = True  # for an If
    turns: int | None = None  # the number of iterations of a Loop; None for an If


@dataclass(frozen=True, eq=False)
class Settled:
    """The consequences of decisions."""

    known: Mapping[Value, bool]  # conditions with a known answer, including fixed ones
    choices: Mapping[Node, Scope]  # the body that runs, per If whose condition is known
    turns: Mapping[Node, int]  # the number of iterations, per fixed Loop


class ContradictionError(Exception):
    """Two decisions fix one condition at different answers."""


def _held(decisions: Iterable[Decision]) -> dict[Value, bool]:
    """The values that decisions hold: conditions, and what they are the same as or the opposite of."""
    found: dict[Value, bool] = {}
    for decision in decisions:
        condition = decision.node.input(0)
        if decision.turns is not None or condition is None:
            continue
        for value, answer in _sources(condition, decision.answer):
            if found.setdefault(value, answer) != answer:
                raise ContradictionError
    return found


def _sources(condition: Value, answer: bool) -> Iterator[tuple[Value, bool]]:
    """A condition and the values that it depends on alone, each with the implied answer."""
    value: Value | None = condition
    while value is not None:
        yield value, answer
        node = value.producer
        if node is None or node.bodies or len(node.inputs) != 1:
            return
        answers = {given: _computed(node, [given]) for given in (True, False)}
        fitting = [given for given, made in answers.items() if made is answer]
        if len(fitting) != 1:
            return
        value, answer = node.inputs[0], fitting[0]


def settled(view: GraphView, decisions: Iterable[Decision]) -> Settled:
    """Return the consequences of decisions."""
    decisions = tuple(decisions)
    known = _held(decisions)
    turns = {item.node: item.turns for item in decisions if item.turns is not None}
    for node in turns:
        going = going_in(node)
        if going is not None:
            known[going] = True
    fixed = frozenset(known)
    choices: dict[Node, Scope] = {}
    if not known:
        return Settled(known, choices, turns)
    for node in view.nodes:
        if is_a(node, "If"):
            answers = _of_choice(node, known, choices)
        elif node.bodies:
            continue
        else:
            answer = _computed(node, [None if value is None else known.get(value) for value in node.inputs])
            answers = [answer] * (1 if answer is not None else 0)
        for value, answer in zip(node.outputs, answers, strict=False):
            if value is not None and answer is not None and value not in fixed:
                known[value] = answer
    return Settled(known, choices, turns)


def _of_choice(node: Node, known: Mapping[Value, bool], choices: dict[Node, Scope]) -> list[bool | None]:
    """Return the known outputs of an If, and record which body runs."""
    condition = node.inputs[0]
    answer = None if condition is None else known.get(condition)
    bodies = list(node.bodies.values())
    if answer is not None:
        choices[node] = node.bodies[BRANCHES[answer]]
        bodies = [choices[node]]
    found: list[bool | None] = []
    for index in range(len(node.outputs)):
        answers = {None if value is None else known.get(value) for value in given_by(bodies, index)}
        found.append(answers.pop() if len(answers) == 1 else None)
    return found


def given_by(bodies: Iterable[Scope], index: int) -> list[Value | None]:
    """Return the value of one output of each body."""
    return [body.lookup(body.proto.output[index].name) for body in bodies]


def going_in(node: Node) -> Value | None:
    """Return the condition that the body of a Loop reads: the one that the previous iteration computed."""
    (body,) = node.bodies.values()
    return body.values.get(body.proto.input[GOING_IN].name)


def _computed(node: Node, numbers: list[bool | None]) -> bool | None:
    """Return a node's output for known conditions, None where it is unknown or no condition."""
    if all(number is None for number in numbers):
        return None
    if is_a(node, "Identity"):
        return numbers[0]
    if is_a(node, "Cast"):
        source = node.input(0)
        plain = node.attribute("to") == TensorProto.BOOL
        return numbers[0] if plain and source is not None and source.elem_type == TensorProto.BOOL else None
    if any(value is not None and value.elem_type not in _LOGIC for value in node.inputs):
        return None
    made = number_of(node, [None if number is None else float(number) for number in numbers])
    return None if made is None else bool(made)


_LOGIC = (TensorProto.BOOL, TensorProto.UNDEFINED)


def forced(view: GraphView, decisions: Iterable[Decision]) -> ModelProto:
    """A copy of a model with conditions fixed at an answer, independent of computed values."""
    decisions = tuple(decisions)
    made = copied(view.model)
    for position, (value, answer) in enumerate(_held(decisions).items()):
        array = np.full((1,) if value.shape == (1,) else (), answer)
        made.graph.initializer.append(numpy_helper.from_array(array, f"{FORCED}{position}"))
        _hold(made, value, f"{FORCED}{position}")
    for position, decision in enumerate(decisions):
        if decision.turns is not None:
            _end_after(made, decision.node, decision.turns, f"{FORCED}_turns{position}")
    return made


def otherwise(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The same with the last decision reversed: one iteration more, for a Loop."""
    *before, last = decisions
    if last.turns is not None:
        return (*before, Decision(last.node, turns=last.turns + 1))
    return (*before, Decision(last.node, answer=not last.answer))


def _hold(model: ModelProto, value: Value, name: str) -> None:
    """Replace a value by a constant for all readers."""
    for use in value.consumers:
        _proto(model, use.node).input[use.input_index] = name
    node = value.producer
    if node is None or not value.is_graph_output:
        return
    # What a graph or a body gives out keeps its name; what was computed gets another one.
    _proto(model, node).output[value.output_index] = f"{value.name}/{FORCED}"
    graph_of(model, node).node.append(nodes.as_proto(nodes.new("", "Identity", (name,), value.name)))


def _end_after(model: ModelProto, node: Node, turns: int, name: str) -> None:
    """Let a Loop run a fixed number of iterations, whatever its body decides."""
    loop = _proto(model, node)
    loop.input[1] = ""
    (attribute,) = (item for item in loop.attribute if item.name in node.bodies)
    body = attribute.g
    last = numpy_helper.from_array(np.array(turns - 1, dtype=np.int64), f"{name}_last")
    model.graph.initializer.append(last)
    less = nodes.new("", "Less", (body.input[0].name, last.name), name)
    body.node.append(nodes.as_proto(less, node.opset))
    body.output[GOING_OUT].name = name


def _proto(model: ModelProto, node: Node) -> NodeProto:
    found: NodeProto = graph_of(model, node).node[node.position]
    return found


Layers = tuple[Node, ...]
"""The projections of all sites of one kind: a layer runs where they run."""


def layers_of(sites: Iterable[Site]) -> Layers:
    """The nodes that stand for the layers of these sites."""
    return tuple(projection.node for site in sites for projection in site.projections)


def inside(layers: Layers, body: Scope) -> int:
    """Return the number of layers in a body, including nested bodies."""
    return sum(1 for node in layers if body in node.scope.around)


def running(view: GraphView, settled: Settled) -> set[Node]:
    """The nodes that the outputs of a model need, where some conditions are known.

    Args:
        settled: the known conditions; of an If with a known condition only one body runs.
    """

    def needed(value: Value | None) -> Iterator[Value | None]:
        node = None if value is None or value in settled.known else value.producer
        if value is None or node is None:
            return
        chosen = settled.choices.get(node)
        if chosen is not None:
            yield from given_by([chosen], value.output_index)
            return
        yield from node.inputs
        for body in node.bodies.values():
            yield from (body.lookup(info.name) for info in body.proto.output)

    outputs = [view.main.lookup(info.name) for info in view.main.proto.output]
    values = (value for value in reachable(outputs, needed) if value not in settled.known)
    return {value.producer for value in values if value is not None and value.producer is not None}
