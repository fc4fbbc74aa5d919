"""What a projection computes when all its heads are gone: a constant, at the size that its output had.

The general answer where the branch is not simply added to a residual stream: its output feeds a fused
residual norm, a normalisation, a quantizer or the model's caller. The projection sums over nothing, so its
output is its bias (or zero, or a zero point) for every token; an `Expand` spells that at run time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, InsertNode, SetInput
from onnxheadprune.liveness.contraction import CONVOLUTIONS
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.liveness.registry import refuse
from onnxheadprune.liveness.remnant import Remnant
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.facts import SUMS_INTEGERS
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import FLOATS


def stand_in(
    projection: Node, left: Remnant | None, vanished: frozenset[Value] = frozenset()
) -> Sequence[Edit] | Refusal:
    """Edits that put a constant in the place of what a projection alone makes up.

    Args:
        projection: the contraction whose context is to vanish.
        left: how far its bias could be followed, None where the projection quantizes its output.
        vanished: values that are gone with this and other contexts, so that none of them can tell a size.

    Returns:
        The edits, or a refusal if the constant, or its size, cannot be spelled.
    """
    value = projection.out if left is None else left.value
    builder = _Builder(projection, value, vanished, [] if left is None else list(left.edits))
    if value.shape is None:
        return _refused(projection, f"the shape of {value.name} is not known")
    constant = builder.quantized() if left is None else builder.constant(left)
    if constant is None:
        return _refused(
            projection, f"what a {projection.op_type} adds to the sum over heads cannot be spelled"
        )
    shape = builder.shape(value.shape)
    if shape is None:
        return _refused(projection, f"nothing else in the graph tells how large {value.name} is")
    return builder.edits(constant, shape)


def _refused(node: Node, why: str) -> Refusal:
    return refuse(node, Reason.NO_PROJECTION, f"all heads cannot go: {why}")


@dataclass
class _Builder:
    """Collects nodes that go before the producer of `value`, and names what they make."""

    node: Node
    value: Value
    vanished: frozenset[Value]
    made: list[Edit] = field(default_factory=list)

    @property
    def before(self) -> Node:
        """Where new nodes go: nothing between the projection and this node is needed any more."""
        return self.value.producer or self.node

    def edits(self, constant: str, shape: str) -> list[Edit]:
        out, producer = self.value, self.before
        if out.is_graph_output:
            self._insert(nodes.expand(self.before.ref, constant, shape, out.name))
            return [*self.made, DropNode(producer.ref, producer.op_type)]
        expanded = self._insert(nodes.expand(self.before.ref, constant, shape, self._name("without_heads")))
        # Who only looks at the shape, too: it is the same one, and what computed it can go.
        return [*self.made, *(SetInput(use.node.ref, use.input_index, expanded) for use in out.consumers)]

    def constant(self, left: Remnant) -> str | None:
        """The vector, broadcastable to the value."""
        found = self._zero() if left.name is None else left.name
        after = len(self.value.shape or ()) - 1 - left.axis
        return found if found is None or not after else self._followed_by_ones(found, after)

    def _zero(self) -> str | None:
        """A zero of the output's type; without one on record, of the type of the operands."""
        integer = self.node in SUMS_INTEGERS
        types = [TensorProto.INT32] if integer and self.value is self.node.out else [self.value.elem_type]
        types += [value.elem_type for value in self.node.inputs if value is not None]
        known = next((elem_type for elem_type in types if elem_type in (TensorProto.INT32, *FLOATS)), None)
        if known is None:
            return None
        return self._integers("zero", (0,), np.dtype(helper.tensor_dtype_to_np_dtype(known)).name)

    def quantized(self) -> str | None:
        """The output's zero point, moved by the bias in the units of the output."""
        node = self.node
        roles = roles_of(node)
        if roles.scales is None:
            return None
        left, right, scale, zero, bias = (
            None if index is None else node.input(index)
            for index in (*roles.scales, roles.output_scale, roles.output_zero, roles.integer_bias)
        )
        if left is None or right is None or node.attribute("alpha", 1.0) != 1.0:
            return None
        if bias is None:
            return None if zero is None else zero.name
        before = self.before.ref
        unit = self._insert(nodes.multiply(before, left.name, right.name, self._name("unit")))
        cast = self._insert(nodes.cast(before, bias.name, int(TensorProto.FLOAT), self._name("bias")))
        found = self._insert(nodes.multiply(before, cast, unit, self._name("exact")))
        if scale is not None:
            if zero is None:
                return None
            found = self._insert(
                nodes.quantize(before, found, scale.name, zero.name, self._name("quantized"))
            )
        after = len(node.out.shape or ()) - 2 if CONVOLUTIONS.of(node) is not None else 0
        return self._followed_by_ones(found, after) if after else found

    def _followed_by_ones(self, vector: str, count: int) -> str:
        shape = self._integers("column", (-1, *(1,) * count))
        return self._insert(nodes.reshape(self.before.ref, vector, shape, self._name("per_channel")))

    def shape(self, shape: Shape) -> str | None:
        """A value that holds the output's shape at run time: that of a neighbour, or put together from the inputs."""
        neighbour = self._neighbour(shape)
        if neighbour is not None:
            return self._insert(nodes.shape_of(self.before.ref, neighbour.name, self._name("shape")))
        parts = [self._dim(axis, dim) for axis, dim in enumerate(shape)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return self._insert(nodes.concat(self.before.ref, tuple(known), self._name("shape")))

    def _neighbour(self, shape: Shape) -> Value | None:
        """Another input of a consumer with the same shape, computed before the projection (a residual stream)."""
        for use in self.node.out.consumers:
            for other in use.node.inputs:
                early = other is not None and (
                    other.producer is None or other.producer.index < self.node.index
                )
                if other is None or other.is_constant or other in self.vanished:
                    continue
                if early and other.shape == shape:
                    return other
        return None

    def _dim(self, axis: int, dim: Dim) -> str | None:
        """One dimension as a vector of one element: a number, or a polynomial in sizes of model inputs."""
        if isinstance(dim, int):
            return self._integers(f"size{axis}", (dim,))
        total: str | None = None
        for position, (atoms, factor) in enumerate(dim.terms):
            term = self._integers(f"size{axis}_{position}", (factor,)) if factor != 1 or not atoms else None
            for atom in atoms:
                size = self._size_of(atom)
                if size is None:
                    return None
                if term is None:
                    term = size
                else:
                    name = self._fresh(f"product{axis}")
                    term = self._insert(nodes.multiply(self.before.ref, term, size, name))
            assert term is not None
            if total is None:
                total = term
            else:
                total = self._insert(nodes.add(self.before.ref, total, term, self._fresh(f"sum{axis}")))
        return total

    def _size_of(self, symbol: str) -> str | None:
        """The size of the model input axis that carries a symbol."""
        for value, axis in _carriers(self.before, symbol):
            shape = self._insert(nodes.shape_of(self.before.ref, value.name, self._name(f"shape_{symbol}")))
            index = self._integers(f"axis_{symbol}", (axis,))
            return self._insert(nodes.gather(self.before.ref, shape, index, 0, self._name(f"size_{symbol}")))
        return None

    def _name(self, what: str) -> str:
        return f"{self.value.name}/{MARK}_{what}"

    def _fresh(self, what: str) -> str:
        return self._name(f"{what}_{len(self.made)}")

    def _integers(self, what: str, values: tuple[int, ...], dtype: str = "int64") -> str:
        name = self._name(what)
        edit = AddConstant(self.node.scope.ref, name, values, dtype=dtype)
        if edit not in self.made:
            self.made.append(edit)
        return name

    def _insert(self, edit: InsertNode) -> str:
        if edit not in self.made:
            self.made.append(edit)
        return edit.outputs[0]


def _carriers(node: Node, symbol: str) -> Iterator[tuple[Value, int]]:
    """Axes of model inputs whose size is a symbol."""
    scope = node.scope
    while scope.parent is not None:
        scope = scope.parent
    for value in scope.values.values():
        if value.is_graph_input and not value.is_initializer:
            for axis, dim in enumerate(value.shape or ()):
                if not isinstance(dim, int) and dim.terms == (((symbol,), 1),):
                    yield value, axis
