"""Redirect Shape nodes whose input is otherwise unused to another value of that size, or to the model inputs.

So nothing is computed only for its shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, InsertNode, SetInput, scope_of
from onnxheadprune.liveness.frozen_shapes import picked_positions
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.elements import shape_range
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Use, Value


@dataclass(frozen=True)
class Observer:
    """A reader of the shape of a value."""

    scope: Scope  # the graph of the reader
    before: str  # the reference of the node before which new nodes can go
    index: float  # `Node.index` of that node; what is read has to be computed by then
    axes: Collection[int] | None = None  # those that are read, None for all


@dataclass
class Sizes:
    """Search for values of the same size."""

    view: GraphView  # an annotated view of the model
    kept: Mapping[Value, Live]  # what a cut leaves of values
    stays: Callable[[Value], bool]  # whether a value is computed anyway, or comes in
    _alike: dict[tuple[object, ...], list[Value]] = field(default_factory=dict)

    def same_size(self, value: Value, observer: Observer) -> Value | None:
        """Return the first value that is kept and has the size of another one, None if there is none.

        Inputs come first, then values in graph order: those that are computed early (embeddings) carry no units, so
        that no other cut narrows them.
        """
        axes = range(value.rank or 0) if observer.axes is None else sorted(observer.axes)
        return next(
            (other for other in self._of_size(value, tuple(axes)) if self._can_show(other, observer)), None
        )

    def spelled(self, shape: Shape, observer: Observer, name: str) -> list[Edit] | None:
        """Return edits that compute a shape as value `name` from sizes of the model inputs.

        None if a dimension is no polynomial in these.
        """
        numbers = tuple(dim for dim in shape if isinstance(dim, int))
        if len(numbers) == len(shape):
            return [AddConstant(observer.scope.ref, name, numbers)]
        inner = name if MARK in name else f"{name}/{MARK}_sizes"
        spelling = _Spelling(self, observer, inner)
        parts = [spelling.dim(axis, dim) for axis, dim in enumerate(shape)]
        known = tuple(part for part in parts if part is not None)
        if len(known) < len(parts):
            return None
        return [*spelling.made, nodes.new(observer.before, "Concat", known, name, axis=0)]

    def inputs_of_size(self, symbol: str) -> Iterator[tuple[Value, int]]:
        """Yield the axes of kept model inputs whose size is a symbol."""
        for value in self.view.main.values.values():
            if not value.is_graph_input or value.is_initializer or not self.stays(value):
                continue
            for axis, dim in enumerate(value.shape or ()):
                named = not isinstance(dim, int) and dim.terms == (((symbol,), 1),)
                if named and axis not in self.kept.get(value, FULL).axes:
                    yield value, axis

    def _of_size(self, value: Value, axes: tuple[int, ...]) -> list[Value]:
        """Return all values of the same size on some axes, inputs first."""

        def sizes(shape: Shape) -> tuple[Dim, ...]:
            return tuple(shape[axis] for axis in axes)

        shape = value.shape or ()
        key = (len(shape), axes, sizes(shape))
        if key not in self._alike:
            found = [
                other
                for other in self.view.values()
                if other.shape is not None
                and len(other.shape) == len(shape)
                and sizes(other.shape) == sizes(shape)
                and not other.is_constant
                and not any(axis in self.kept.get(other, FULL).axes for axis in axes)
            ]
            self._alike[key] = sorted(found, key=_place)
        return self._alike[key]

    def _can_show(self, value: Value, observer: Observer) -> bool:
        early = value.producer is None or value.producer.index < observer.index
        return early and observer.scope.lookup(value.name) is value and self.stays(value)


def _place(value: Value) -> int:
    return -1 if value.producer is None else value.producer.index


@dataclass
class _Spelling:
    sizes: Sizes
    observer: Observer
    name: str
    made: dict[Edit, None] = field(default_factory=dict)

    def dim(self, axis: int, dim: Dim) -> str | None:
        """One dimension as a vector of one element: a number, or a polynomial in sizes of model inputs."""
        if isinstance(dim, int):
            return self._number(f"axis{axis}", dim)
        total: str | None = None
        for place, (atoms, factor) in enumerate(dim.terms):
            term = self._term(f"axis{axis}_{place}", atoms, factor)
            if term is None:
                return None
            total = term if total is None else self._insert("Add", total, term, f"axis{axis}_sum{place}")
        return total

    def _term(self, label: str, atoms: tuple[str, ...], factor: int) -> str | None:
        term = self._number(label, factor) if factor != 1 or not atoms else None
        for place, atom in enumerate(atoms):
            size = self._size(atom)
            if size is None:
                return None
            term = size if term is None else self._insert("Mul", term, size, f"{label}_times{place}")
        return term

    def _size(self, symbol: str) -> str | None:
        """The size of the model input axis that carries a symbol."""
        for value, axis in self.sizes.inputs_of_size(symbol):
            shape, size = f"{self.name}_of_{value.name}", f"{self.name}_{symbol}"
            before = self.observer.before
            self.made[nodes.new(before, "Shape", (value.name,), shape)] = None
            self.made[nodes.new(before, "Gather", (shape, self._number(f"at{axis}", axis)), size, axis=0)] = (
                None
            )
            return size
        return None

    def _number(self, label: str, number: int) -> str:
        name = f"{self.name}_{label}"
        self.made[AddConstant(self.observer.scope.ref, name, (number,))] = None
        return name

    def _insert(self, op_type: str, left: str, right: str, label: str) -> str:
        edit = nodes.new(self.observer.before, op_type, (left, right), f"{self.name}_{label}")
        self.made[edit] = None
        return edit.outputs[0]


class ShapeSources:
    """Other sources for shapes of otherwise unused values."""

    def __init__(
        self,
        view: GraphView,
        kept: Mapping[Value, Live],
        contents: Collection[Value | str],
        going: Collection[Value],
    ) -> None:
        """Prepare the search.

        Args:
            kept: what a cut leaves of values.
            contents: the values whose contents are needed.
            going: graph inputs that are to be removed.
        """

        def stays(value: Value) -> bool:
            if value.producer is None:
                return value.is_graph_input and not value.is_initializer and value not in going
            return value in contents

        self._view = view
        self._sizes = Sizes(view, kept, stays)
        self._scopes = {scope.ref: scope for scope in view.scopes}

    def of_new(self, shape: InsertNode) -> list[Edit] | None:
        """Edits in the place of a new node that shows a shape; None if there are none."""
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

    def of_old(self, shape: Node, readers: Sequence[Use]) -> list[Edit]:
        """Edits that let a node show the shape of another value, or that compute what it shows; none if unknown."""
        value = shape.input(0)
        if value is None or value.shape is None:
            return []
        asked = self._asked(shape, readers) if is_a(shape, "Shape") else None
        observer = Observer(shape.scope, shape.ref, shape.index, asked)
        other = self._sizes.same_size(value, observer)
        if other is not None:
            return [SetInput(shape.ref, 0, other.name)]
        if not is_a(shape, "Shape"):
            return []
        listed = tuple(value.shape[axis] for axis in shape_range(shape, len(value.shape)))
        edits = self._sizes.spelled(listed, observer, shape.out.name)
        return [] if edits is None else [DropNode(shape.ref, shape.op_type), *edits]

    def _asked(self, shape: Node, readers: Sequence[Use]) -> Collection[int]:
        """Return the axes whose sizes are read."""
        shown = list(shape_range(shape, len(shape.shape(0) or ())))
        found: set[int] = set()
        for use in readers:
            positions = picked_positions(use, len(shown))
            if positions is None:
                return shown
            found.update(shown[int(place)] for place in positions.reshape(-1))
        return shown if shape.out.is_graph_output else found
