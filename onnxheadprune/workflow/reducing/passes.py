"""Kinds of candidates: fewer nodes, nodes that are stepped over, smaller sizes, fewer heads, fewer known numbers."""

from __future__ import annotations

import itertools

from onnx import ModelProto, TensorProto

from onnxheadprune.model.storage.tensors import Stored, stored_size, tensors_of
from onnxheadprune.workflow.reducing.anonymous import renamed
from onnxheadprune.workflow.reducing.hollow import hollow_out, is_hollow
from onnxheadprune.workflow.reducing.line import Heads
from onnxheadprune.workflow.reducing.minimize import minimized
from onnxheadprune.workflow.reducing.parts import (
    assembled,
    bypassed,
    opened,
    part_of,
    without_input,
)
from onnxheadprune.workflow.reducing.search import Pass, Search
from onnxheadprune.workflow.reducing.shapes import computed_shapes, with_literals
from onnxheadprune.workflow.reducing.sizes import bases, scaled, targets
from onnxheadprune.workflow.reducing.values import types_of

MANY_ELEMENTS = 10_000_000
"""Random numbers that take about as long to make and write as a model takes to analyse."""


def literal_shapes(search: Search) -> None:
    """Writes shapes that the graph computes as numbers, so that what computes them can go."""
    found = computed_shapes(search.case.model)
    if search.tries(with_literals(search.case.model, found)):
        return
    # What one operator takes as a size, another one does not: one kind after the other, then one by one.
    groups = [
        [place for place in found if place[0] == kind] for kind in sorted({place[0] for place in found})
    ]
    for places in groups:
        if not search.tries(with_literals(search.case.model, {place: found[place] for place in places})):
            for place in reversed(places):
                search.tries(with_literals(search.case.model, {place: found[place]}))


def fewer_nodes(search: Search) -> None:
    """Leaves nodes out."""
    model = search.case.model
    types = types_of(model)
    minimized(range(len(model.graph.node)), lambda kept: search.tries(part_of(model, kept, types)))


def fewer_steps(search: Search) -> None:
    """Lets readers of a node read what it reads, and nodes of bodies take the place of their node."""
    position = len(search.case.model.graph.node) - 1
    while position >= 0:
        model = search.case.model
        types = types_of(model)
        candidates = [*bypassed(model, position, types), *opened(model, position, types)]
        if any(search.tries(candidate) for candidate in candidates):
            position = min(position, len(search.case.model.graph.node))
        position -= 1


def fewer_inputs(search: Search) -> None:
    """Leaves out what nodes can do without: biases, masks, bounds."""
    position = 0
    while position < len(search.case.model.graph.node):
        types = types_of(search.case.model)
        for index in reversed(range(1, len(search.case.model.graph.node[position].input))):
            model = search.case.model
            given = model.graph.node[position].input
            if index < len(given) and given[index]:
                search.tries(without_input(model, position, index, types))
        position += 1


def smaller_sizes(search: Search) -> None:
    """Makes sizes smaller, those that belong together at once."""
    shrunk = True
    while shrunk:
        shrunk = False
        for base in bases(search.case.model):
            ways = itertools.product(targets(base), (False, True))
            shrunk |= any(
                search.tries(scaled(search.case.model, base, target, deep=deep)) for target, deep in ways
            )


def smaller_first(search: Search) -> None:
    """Makes sizes smaller before anything else, where every trial would write a large file."""
    if stored_size(search.case.model).elements > MANY_ELEMENTS:
        smaller_sizes(search)


def fewer_heads(search: Search) -> None:
    """Leaves out heads and other units that the command names."""
    if search.case.heads is None:
        return
    named = [(site, unit) for site, units in search.case.heads for unit in units or (None,)]
    model = search.case.model

    def fails(kept: list[tuple[str, int | None]]) -> bool:
        heads: Heads = tuple(
            (site, tuple(unit for at, unit in kept if at == site and unit is not None))
            for site in dict.fromkeys(site for site, _ in kept)
        )
        return bool(heads) and search.tries(model, heads)

    minimized(named, fails)


def fewer_numbers(search: Search) -> None:
    """Makes numbers random that were left as they are: what they are may not matter."""
    model = search.case.model
    known = [index for index, stored in enumerate(tensors_of(model)) if tells_something(stored)]

    def fails(kept: list[int]) -> bool:
        made = ModelProto()
        made.CopyFrom(model)
        for index, stored in enumerate(tensors_of(made)):
            if index in known and index not in kept:
                hollow_out(stored.tensor)
        return search.tries(made)

    if known and not fails([]):
        minimized(known, fails)


def tells_something(stored: Stored) -> bool:
    """Whether a tensor has numbers of the original that are more than sizes and axes: real ones, or whole tables."""
    tensor = stored.tensor
    if is_hollow(tensor):
        return False
    return (
        tensor.data_type not in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
        or len(tensor.dims) > 1
    )


def tidied(search: Search) -> None:
    """Leaves out declarations and operator sets that nothing needs, and numbers names anew."""
    model = search.case.model
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    search.tries(bare)
    model = search.case.model
    for index in reversed(range(len(model.opset_import))):
        lean = ModelProto()
        lean.CopyFrom(search.case.model)
        del lean.opset_import[index]
        search.tries(lean)
    search.tries(
        assembled(search.case.model, list(search.case.model.graph.node), types_of(search.case.model))
    )
    search.tries(renamed(search.case.model))


ROUND: tuple[Pass, ...] = (literal_shapes, fewer_nodes, fewer_steps, fewer_inputs, smaller_sizes, fewer_heads)
"""Tried again and again until nothing changes."""
FIRST: tuple[Pass, ...] = (fewer_numbers, smaller_first)
LAST: tuple[Pass, ...] = (fewer_numbers, tidied)
