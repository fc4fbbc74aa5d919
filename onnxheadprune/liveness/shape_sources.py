"""Redirect Shape nodes whose input is needed for nothing else to another value of that size, or to the model inputs.

So nothing is computed only for its shape.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from onnxheadprune.edit.edits import MARK, Edit, InsertNode, SetInput, scope_of
from onnxheadprune.liveness.freezing import picked_positions
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.readers import Asking, Readers
from onnxheadprune.liveness.sizes import Observer, Sizes
from onnxheadprune.model.graph.elements import shape_range
from onnxheadprune.model.graph.facts import SHOWS_SHAPE
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value


class ShapeSources:
    """Other sources for shapes of values that are computed for nothing else."""

    def __init__(self, view: GraphView, kept: Mapping[Value, Live], readers: Readers) -> None:
        """Prepare the search.

        Args:
            view: an annotated view of the model.
            kept: what a cut leaves of values.
            readers: who reads what, which changes as edits are made.
        """
        self._view = view
        self._readers = readers
        self._sizes = Sizes(view, kept, readers.stays)
        self._scopes = {scope.ref: scope for scope in view.scopes}

    def of(self, value: Value) -> Iterator[tuple[Asking, list[Edit]]]:
        """Yield the nodes that read only the shape of a value, each with the edits that redirect it.

        Edits for a new node replace it; those for a node of the model are added.
        """
        if value.producer is None and value not in self._readers.going:
            return
        for reader in self._readers.asking(value) or ():
            edits = self._new(reader) if isinstance(reader, InsertNode) else self._old(reader.node)
            if edits is not None:
                yield reader, edits

    def _new(self, shape: InsertNode) -> list[Edit] | None:
        scope = self._scopes[scope_of(shape.before)]
        value, before = scope.lookup(shape.inputs[0]), self._view.by_ref.get(shape.before)
        if value is None or value.shape is None:
            return None
        observer = Observer(scope, shape.before, math.inf if before is None else before.index)
        static = all(isinstance(dim, int) for dim in value.shape)
        other = None if static else self._sizes.same_size(value, observer)
        if other is not None:
            return [replace(shape, inputs=(other.name,))]
        return self._sizes.spelled(value.shape, observer, shape.outputs[0])

    def _old(self, shape: Node) -> list[Edit] | None:
        value = shape.input(0)
        if value is None or value.shape is None or shape in self._readers.pinned:
            return None
        asked = self._asked(shape, len(value.shape)) if shape in SHOWS_SHAPE else None
        observer = Observer(shape.scope, shape.ref, shape.index, asked)
        other = self._sizes.same_size(value, observer)
        if other is not None:
            return [SetInput(shape.ref, 0, other.name)]
        if shape not in SHOWS_SHAPE or shape.out.is_graph_output:
            return None
        name = f"{shape.out.name}/{MARK}_sizes"
        listed = tuple(value.shape[axis] for axis in shape_range(shape, len(value.shape)))
        edits = self._sizes.spelled(listed, observer, name)
        if edits is None:
            return None
        uses = [reader for reader in self._readers.readers(shape.out) if isinstance(reader, Use)]
        return [*edits, *(SetInput(use.node.ref, use.input_index, name) for use in uses)]

    def _asked(self, shape: Node, rank: int) -> Collection[int] | None:
        """Return the axes whose sizes are read."""
        shown = list(shape_range(shape, rank))
        found: set[int] = set()
        for reader in self._readers.readers(shape.out):
            positions = picked_positions(reader, len(shown)) if isinstance(reader, Use) else None
            if positions is None:
                return shown
            found.update(shown[int(place)] for place in positions.reshape(-1))
        return shown if shape.out.is_graph_output else found
