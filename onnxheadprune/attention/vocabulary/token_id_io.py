"""Inputs and outputs of a model that mean token ids: what a smaller vocabulary renumbers, and what it cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxheadprune.attention.vocabulary.places import HANDS_ON, INTEGERS, Place, contents, picked
from onnxheadprune.attention.vocabulary.token_logits import (
    Logits,
    axes_of,
    has_layer,
    judged,
    rearranged,
    together,
)
from onnxheadprune.model.graph.facts import ELEMENTWISE, EQUALS, GENERATES, OBSERVES, REDUCES
from onnxheadprune.model.graph.tables import choice_of
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.tensors import FLOATS


@dataclass(frozen=True, eq=False)
class Meaning:
    """The places of a model that mean token ids."""

    places: tuple[Place, ...]  # all of them
    # names of further inputs with token ids: labels, ids that others are compared with
    inputs: tuple[str, ...]
    logits: tuple[Logits, ...]  # the outputs with a number for each token
    open: tuple[Logits, ...]  # outputs that may be that, which nothing in the model decides
    others: tuple[str, ...]  # names of outputs of linear layers with as many values, which are no tokens
    obstacle: str  # the first place that would keep its old meaning; "" without one

    @classmethod
    def of(
        cls,
        view: GraphView,
        rows: int,
        ids: Sequence[Value],
        chosen: Collection[str] | None,
        rest: Mapping[Place, str],
    ) -> Meaning:
        """Return the inputs and outputs that hold token ids.

        Args:
            chosen: names of the outputs with a number for each token; None where the model decides.
            rest: the axes of tables that other inputs index, with the names of these.
        """
        starts = [Place(value) for value in ids]
        places = together(starts)
        known = set(places)
        undecided, others = [], []
        for output in (view.main.values[info.name] for info in view.model.graph.output):
            own = [place for place in axes_of(output) if place not in known]
            answers = {place: judged(view, place, rows, ids, rest) for place in own}
            likely = [place for place, answer in answers.items() if answer != "other"]
            if chosen is not None:
                # Who names an output knows more than the model shows: its last axis.
                likely = (likely or own)[:1] if output.name in chosen else []
            if chosen is None and likely and answers[likely[0]] == "open":
                undecided.append(Logits.at(likely[0]))
            elif likely:
                starts.append(likely[0])
                places = together(starts)
                known = set(places)
            elif any(place.size == rows and has_layer(place) for place in own):
                others.append(output.name)
        obstacle = ""
        for place, reader in _chosen_among(view):
            # A loss, or a choice, reads logits that are no output.
            answer = "other" if place in known else judged(view, place, rows, ids, rest)
            if answer == "tokens":
                starts.append(place)
            elif answer == "open":
                obstacle = obstacle or (
                    f"{reader} chooses among {place.size:,} values, which may be tokens; export it without that"
                )
        places = together(starts)
        found = cls._named(view, places, {value.name for value in ids})
        return cls(
            tuple(places),
            found.inputs,
            found.logits,
            tuple(undecided),
            tuple(others),
            _chooser(view, places)
            or found.obstacle
            or obstacle
            or rearranged(view, places, rows if chosen is None else None)
            or _beyond(places, rows)
            or _of_others(places, rest)
            or _obstacle(view, places, {*(value.name for value in ids), *found.inputs}),
        )

    @classmethod
    def _named(cls, view: GraphView, places: Sequence[Place], ids: Collection[str]) -> Meaning:
        """Return the inputs and outputs among places."""
        inputs: list[str] = []
        logits: dict[str, Logits] = {}
        obstacle = ""
        for place in places:
            value = place.value
            if value.scope.parent is not None:
                continue
            if value.is_graph_input and not value.is_initializer and value.name not in ids:
                if place.axis is None:
                    inputs.append(value.name)
                else:
                    obstacle = (
                        obstacle or f"its input {value.name} has a value for each of {place.size:,} tokens"
                    )
            if value.is_graph_output and place.axis is None:
                obstacle = obstacle or f"its output {value.name} holds token ids"
            elif value.is_graph_output and place.axis is not None:
                if value.name in logits:
                    obstacle = obstacle or f"its output {value.name} has two axes that count tokens"
                logits[value.name] = Logits.at(place)
        order = [info.name for info in view.model.graph.output]
        return cls(
            tuple(places),
            tuple(dict.fromkeys(inputs)),
            tuple(sorted(logits.values(), key=lambda item: order.index(item.name))),
            (),
            (),
            obstacle,
        )


def _beyond(places: Sequence[Place], rows: int) -> str:
    """The node that knows ids beyond the rows of the table, as those of images may be; "" without one."""
    for place in places if rows else ():
        for use in place.value.consumers if place.axis is None else ():
            known = use.node.literal(1 - use.input_index) if use.node in EQUALS else None
            if known is not None and known.size and known.max() >= rows:
                return (
                    f"{use.node.label} compares ids with {known.max()}, which is none of the {rows:,} tokens and would"
                    " have no new id"
                )
    return ""


def _of_others(places: Sequence[Place], rest: Mapping[Place, str]) -> str:
    """The table of other ids that an operator relates to token ids; "" without one."""
    place = next((item for item in places if item in rest), None)
    if place is None:
        return ""
    return (
        f"{rest[place]} indexes a table of its own, {place.value.name}, and an operator relates both; where both hold"
        " the same tokens, name both inputs"
    )


def _obstacle(view: GraphView, places: Sequence[Place], known: Collection[str]) -> str:
    """Return the first place that a smaller vocabulary would leave with old ids; "" without one."""
    ids = [place.value for place in places if place.axis is None and not place.value.is_constant]
    for value in reachable(ids, _computed_of):
        if value.is_graph_output and value.scope.parent is None and value.elem_type in INTEGERS:
            return f"its output {value.name} is computed from token ids, which it would have to number anew"
    for value in ids:
        for source in reachable([value], computed_from):
            if source.is_graph_input and source.scope.parent is None and source.name not in known:
                return (
                    f"its input {source.name} is compared with token ids or picks logits by them, after other numbers"
                    " were computed from it; export it without that"
                )
    return ""


def integer_inputs(view: GraphView) -> Iterator[Value]:
    """Yield the inputs with integers."""
    for info in view.model.graph.input:
        value = view.main.values[info.name]
        if value.tensor is None and value.elem_type in INTEGERS:
            yield value


def _chosen_among(view: GraphView) -> Iterator[tuple[Place, str]]:
    """Yield axes that something other than an output tells to be logits, each with what that is."""
    for value in integer_inputs(view):
        for place in together([Place(value)]):
            if place.axis is not None and not place.value.is_constant:
                yield place, f"its input {value.name}"
    for node in view.nodes:
        for place, index in picked(node):
            inputs = [item.name for item in reachable([index], computed_from) if item.is_graph_input]
            if inputs:
                yield place, f"its input {inputs[0]}"
        chosen = [item for item in node.results if item.elem_type in INTEGERS]
        if node not in OBSERVES and any(item.is_graph_output for item in reachable(chosen, _computed_of)):
            choice = choice_of(node)
            for value in node.computed if choice is None else node.computed[:1]:
                axis = (value.rank or 0) - 1 if choice is None else choice.axis
                if value.elem_type in FLOATS and value.rank:
                    yield Place(value, axis), node.label


def _chooser(view: GraphView, places: Collection[Place]) -> str:
    """The node that computes integers from logits; "" without one."""
    generating = next((node for node in view.nodes if node in GENERATES), None)
    if generating is not None:
        return f"{generating.label} chooses tokens itself; export the decoder alone"
    for place in places:
        if place.axis is None or place.value.elem_type not in FLOATS or place.value.is_constant:
            continue
        for use in place.value.consumers:
            if use.node not in OBSERVES and any(item.elem_type in INTEGERS for item in use.node.results):
                return (
                    f"it chooses among all of its tokens itself, at {use.node.label}, and could choose one that is"
                    " removed; export it with logits as its output"
                )
    return ""


def _computed_of(value: Value) -> Iterator[Value]:
    """Yield the integers that are computed from an element of a value each, or from all of them."""
    for use in value.consumers:
        if use.node in ELEMENTWISE | REDUCES | HANDS_ON:
            yield from (item for item in use.node.results if item.elem_type in INTEGERS)


def computed_from(value: Value) -> list[Value]:
    """The integers that a value is computed from, without those that only choose among others or are counted."""
    node = value.producer
    if node is None or node in OBSERVES:
        return []
    read = [node.input(index) for index in contents(node)] if node in HANDS_ON else list(node.inputs)
    return [item for item in read if item is not None and item.elem_type in INTEGERS and not item.is_constant]
