"""Logits of tokens among the outputs of a model, and what decides that they are.

A linear layer whose columns are tokens is tied to a table of tokens, or its logits have as many elements as there are
tokens, at each position of the ids. Of any other layer that might be one, the user or the configuration decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnxheadprune.attention.vocabulary.places import HANDS_ON, Place, alike, behind, contents
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.rule_calls import has_rule
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Symbolic
from onnxheadprune.model.graph.facts import (
    CARRIERS,
    CHOOSES,
    ELEMENTWISE,
    GATHERS,
    OBSERVES,
    QUANTIZERS,
    REDUCES,
    SLICES,
    WEIGHS,
    OperatorKind,
)
from onnxheadprune.model.graph.tables import choice_of
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.tensors import FLOATS

OTHER_IDS = re.compile(r"position|segment|type|mask|cache|lang|length")
"""Names of inputs that index tables and hold no tokens."""
CACHE = re.compile(r"past|cache")
"""Names of inputs with what earlier steps have computed: such a model continues its own outputs."""
FAR = 2
"""Padding never makes logits this many times as wide as the vocabulary, or the reverse."""
MOST = 4096
"""Places of one kind; a residual stream has more, and is no row of logits."""
STEPS = 32
"""Operators between a position that is picked and the layer that reads it."""
_FOLLOWED = HANDS_ON | ELEMENTWISE | WEIGHS | QUANTIZERS | CARRIERS
Answer: TypeAlias = Literal["tokens", "open", "other"]


@dataclass(frozen=True)
class Logits:
    """An output with an element for each token."""

    name: str  # of the output
    axis: int  # the axis that counts tokens
    width: int  # its size, which may differ from the number of ids

    @classmethod
    def at(cls, place: Place) -> Logits:
        """The logits along an axis of an output."""
        assert place.axis is not None
        return cls(place.value.name, place.axis, place.size)


def together(starts: Collection[Place]) -> list[Place]:
    """All places that mean the same as some, those first."""
    return list(reachable(starts, alike, MOST))


def holds_others(name: str) -> bool:
    """Return whether the name of an input is one of those that hold no tokens."""
    return bool(OTHER_IDS.search(name.lower()))


def judged(
    view: GraphView, place: Place, rows: int, ids: Sequence[Value], rest: Mapping[Place, str]
) -> Answer:
    """Return whether an axis that is not tied to a table of tokens counts these.

    "open" if the model does not show it.

    Args:
        ids: the inputs with token ids; nothing where another file of the network has them.
        rest: the axes of tables that other inputs index, with the names of these: what is tied to one counts their
            ids.
    """
    width, caches = place.size, _has_caches(view)
    near = rows < FAR * width and width < FAR * rows
    if place.value.elem_type not in FLOATS or width < 2 or not (near or caches):
        return "other"
    places = _along(place)
    if places is None or any(item in rest for item in together([place])):
        return "other"
    decides = all(item.size != rows or holds_others(name) for item, name in rest.items())
    has_rows = not ids or any(_has_positions(item, ids) for item in places)
    layer = next(filter(_is_of_layer, places), None)
    if layer is None:
        # Of what is computed in the body of a loop, or by an unknown operator, nobody can tell.
        opaque = any(_is_opaque(item.value.producer) for item in places)
        return "open" if near and opaque and has_rows else "other"
    if has_rows:
        return "tokens" if width == rows and decides else "open"
    if caches and width == rows and decides:
        return "tokens"
    return "other" if _reads_first(layer.value) or not near else "open"


def _has_caches(view: GraphView) -> bool:
    return any(
        CACHE.search(info.name.lower()) and info.type.tensor_type.elem_type in FLOATS
        for info in view.model.graph.input
    )


def has_layer(place: Place) -> bool:
    """Return whether a linear layer computes what an axis counts, and nothing but a choice is made of it."""
    return any(map(_is_of_layer, _along(place) or ()))


def _along(place: Place, arranged: OperatorKind | None = None) -> list[Place] | None:
    """The computed places that an axis of an output runs along; None if it is one of hidden states.

    Nothing but a choice is made of logits: no layer sums over them, and none mixes them.
    """
    found: list[Place] = []
    for item in reachable([place], alike, MOST):
        if item.value.is_constant or item.axis is None:
            continue
        for use in item.value.consumers:
            if not (_keeps(item, use) or (arranged is not None and use.node in arranged)):
                return None
        found.append(item)
    return found


def rearranged(view: GraphView, places: Sequence[Place], rows: int | None) -> str:
    """The output that holds logits in another arrangement than along one axis; "" without one.

    Args:
        rows: how many tokens there are, where linear layers with as many columns are logits, too.
    """
    starts = [place for place in places if place.axis is not None and place.value.elem_type in FLOATS]
    known = set(starts)
    for node in view.nodes if rows is not None else ():
        for axis in range(node.out.rank or 0) if node.results else ():
            place = Place(node.out, axis)
            if place.size == rows and place not in known and _is_of_layer(place):
                starts += _along(place, HANDS_ON) or ()
    for place in starts:
        for use in () if place.value.is_constant else place.value.consumers:
            if use.node in HANDS_ON and use.input_index in contents(use.node) and not _keeps(place, use):
                output = _only_output(use.node)
                if output is not None:
                    return f"{use.node.label} arranges logits of tokens anew, for its output {output}"
    return ""


def _only_output(node: Node) -> str | None:
    """The output that elements of a node's results go to; None if a layer reads them."""
    found = None
    for value in reachable(node.results, _handed_on, MOST):
        if value.is_graph_output and value.scope.parent is None:
            found = value.name
        for use in value.consumers:
            if use.node not in _FOLLOWED | OBSERVES | REDUCES and choice_of(use.node) is None:
                return None
    return found


def _handed_on(value: Value) -> Iterator[Value]:
    return (item for use in value.consumers if use.node in _FOLLOWED for item in use.node.results)


def _keeps(place: Place, use: Use) -> bool:
    """Return whether a reader of an axis passes it on, or only chooses along it."""
    node, index = use
    contraction = contraction_of(node)
    if contraction is not None and index in contraction.indices and place.axis is not None:
        return contraction.axes_of(index)[place.axis] in contraction.out_axes
    choice = choice_of(node)
    chooses = choice is not None and choice.axis == place.axis
    return node in OBSERVES | REDUCES or chooses or any(True for _ in behind(place, use))


def _is_of_layer(place: Place) -> bool:
    """Return whether an axis runs along the columns of stored weights alone."""
    node = place.value.producer
    found = None if node is None else contraction_of(node)
    if node is None or found is None or place.axis is None or place.axis >= len(found.out_axes):
        return False
    operands = [node.inputs[index] for index in found.owners(found.out_axes[place.axis])]
    return bool(operands) and all(value is not None and value.is_constant for value in operands)


def _is_opaque(node: Node | None) -> bool:
    """Return whether the axes of a node's outputs cannot be followed to its inputs."""
    if node is None or node in CHOOSES:
        return False
    return bool(node.bodies) or (bool(node.domain) and not has_rule(node))


def _has_positions(place: Place, ids: Sequence[Value]) -> bool:
    """Return whether there is a row of logits for each position of the ids."""
    shape = place.value.shape
    if shape is None:
        return False
    others = [size for axis, size in enumerate(shape) if axis != place.axis]
    return any(_covers(others, value.shape) for value in ids if value.shape)


def _covers(others: Sequence[Dim], shape: Sequence[Dim]) -> bool:
    last = shape[-1]
    if isinstance(last, Symbolic) and any(_names(last) & _names(size) for size in others):
        return True
    if dims.product(others) == dims.product(shape):
        return True
    return len(others) >= max(len(shape), 2) and any(size != 1 for size in others[1:])


def _names(size: Dim) -> set[str]:
    return set() if isinstance(size, int) else {name for names, _ in size.terms for name in names}


def _reads_first(value: Value) -> bool:
    """Return whether a layer reads the state of the first position alone, as classifiers read that of [CLS]."""
    for _ in range(STEPS):
        node = value.producer
        if node is None or not node.sources:
            return False
        if node in GATHERS:
            places = node.literal(1)
            return places is not None and places.size == 1 and not places.any()
        if node in SLICES:
            starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
            return starts is not None and ends is not None and not any(starts) and 1 in ends
        if node in REDUCES:
            return False
        computed = node.computed
        if not computed:
            return False
        value = computed[0]
    return False


def axes_of(value: Value) -> Iterator[Place]:
    """Yield the axes of an output that may count tokens, the last one first."""
    for axis in reversed(range(value.rank or 0)):
        if Place(value, axis).size > 1:
            yield Place(value, axis)
