"""Contractions of an activation with stored weights, and how their result joins the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import helper, numpy_helper

from onnxheadprune.attention.matrices import Array, Matrix, matrix_of
from onnxheadprune.attention.sites.site import Projection
from onnxheadprune.liveness.contraction import Contraction, contraction_of
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.model.graph.facts import (
    ACTIVATES_PRODUCTS,
    ADDS,
    ADDS_AND_NORMALIZES,
    DROPOUTS,
    IDENTITIES,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.tensors import FLOATS

PASSING = IDENTITIES | DROPOUTS


@dataclass(frozen=True, eq=False)
class Linear:
    """`y = x W + b` somewhere in the graph.

    Attributes:
        node: the contraction.
        source: x.
        axes: contracted axes of x, in the order of the rows of W.
        matrix: W as [in, out].
        out: y, the bias included where there is one.
        out_axes: axes of y that hold its features, in the order of the columns of W.
        bias: the stored bias, None without one.
        other: what y is added to (the residual stream), None where it is not simply added.
    """

    node: Node
    source: Value
    axes: tuple[int, ...]
    matrix: Matrix
    out: Value
    out_axes: tuple[int, ...]
    bias: Value | None
    other: Value | None

    def read_bias(self) -> Array | None:
        """The bias as numbers, [out]."""
        if self.bias is None or self.bias.tensor is None:
            return None
        return numpy_helper.to_array(self.bias.tensor).astype("float64").reshape(-1)

    def written_bias(self, bias: Array) -> Array:
        """The stored form of a new bias [out]."""
        assert self.bias is not None and self.bias.tensor is not None
        tensor = self.bias.tensor
        return bias.reshape(tuple(tensor.dims)).astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def linear_of(projection: Projection) -> Linear | None:
    """A site's output projection as a linear map, None where its weights are in no form to rewrite."""
    return _linear(
        projection.node,
        projection.activation[0],
        projection.activation[1],
        projection.weight[0],
        projection.weight[1],
    )


def linear_at(node: Node) -> Linear | None:
    """A node as a linear map with stored weights, None if it is none or they are in no form to rewrite."""
    found = contraction_of(node)
    if found is None or len(found.terms) != 2:
        return None
    terms = [(index, axes) for index, axes in found.terms]
    for (source, left), (weight, right) in (terms, terms[::-1]):
        operand = node.inputs[weight]
        if operand is not None and operand.is_constant:
            letters = sorted(found.contracted, key=lambda letter: left.index(letter))
            return _linear(
                node,
                source,
                tuple(left.index(letter) for letter in letters),
                weight,
                tuple(right.index(letter) for letter in letters),
            )
    return None


def feeders(value: Value) -> tuple[Linear, ...]:
    """The linear maps that a value is made of with no other one in between, in graph order.

    Paths that lead elsewhere (to graph inputs, lookups, weights that cannot be rewritten, shapes) are not told of.
    """
    found: dict[int, Linear] = {}
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value in seen or value.is_constant or value.producer is None:
            continue
        seen.add(value)
        linear = linear_at(value.producer)
        if linear is not None:
            found[linear.node.index] = linear
        else:
            uses = [Use(value.producer, index) for index in range(len(value.producer.inputs))]
            sources = [value.producer.inputs[use.input_index] for use in uses if not looks_only(use)]
            waiting += [item for item in sources if item is not None]
    return tuple(found[index] for index in sorted(found))


def _linear(
    node: Node, source: int, axes: tuple[int, ...], weight: int, weight_axes: tuple[int, ...]
) -> Linear | None:
    found = contraction_of(node)
    x, operand = node.inputs[source], node.inputs[weight]
    if found is None or x is None or operand is None or not operand.is_constant or not axes:
        return None
    if x.elem_type not in FLOATS or node in ACTIVATES_PRODUCTS:
        return None
    if node.attribute("alpha", 1.0) != 1.0 or node.attribute("beta", 1.0) != 1.0:
        return None
    columns = _columns(found, weight, weight_axes)
    if columns is None:
        return None
    free, out_axes = columns
    matrix = matrix_of(operand, weight_axes, free)
    if matrix is None:
        return None
    own = None if (index := roles_of(node).bias) is None else node.input(index)
    bias, out = _bias(node, own, out_axes)
    other, late_bias = _joined(out)
    return Linear(node, x, axes, matrix, out, out_axes, bias or late_bias, other)


def _columns(
    found: Contraction, weight: int, contracted: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Axes of the weight that reach the output, and where they arrive."""
    letters = found.axes_of(weight)
    free = tuple(
        axis
        for axis, letter in enumerate(letters)
        if axis not in contracted and letter is not None and letter in found.out_axes
    )
    names = [letters[axis] for axis in free]
    if not free or any(len(found.owners(str(name))) > 1 for name in names):
        return None
    return free, tuple(found.out_axes.index(str(name)) for name in names)


def _bias(node: Node, own: Value | None, out_axes: tuple[int, ...]) -> tuple[Value | None, Value]:
    """The bias that belongs to a contraction, and the value after it."""
    if own is not None:
        return (own if _is_own(own) and len(own.shape or ()) == 1 else None), node.out
    use = _only_use(node.out)
    if use is None or use.node not in ADDS or use.node.domain:
        return None, node.out
    other = use.node.inputs[1 - use.input_index]
    rank = len(node.out.shape or ())
    if other is None or not other.is_constant or out_axes != (rank - 1,) or len(other.shape or ()) != 1:
        return None, node.out
    # A bias that is shared or computed is passed over, but never mistaken for the residual stream.
    return (other if _is_own(other) else None), use.node.out


def _is_own(value: Value) -> bool:
    return value.holds_tensor and sum(not looks_only(use) for use in value.consumers) == 1


def _only_use(value: Value) -> Use | None:
    uses = [use for use in value.consumers if not looks_only(use)]
    return uses[0] if len(uses) == 1 and not value.is_graph_output else None


def _joined(out: Value) -> tuple[Value | None, Value | None]:
    """What a value is added to, and the bias that a fused addition brings along."""
    use = _only_use(out)
    while use is not None and use.node in PASSING:
        use = _only_use(use.node.out)
    if use is None:
        return None, None
    node = use.node
    if node in ADDS and not node.domain:
        other = node.inputs[1 - use.input_index]
        if (
            other is None
            or other.is_constant
            or other.shape is None
            or len(other.shape) != len(out.shape or ())
        ):
            return None, None
        return other, None
    if node in ADDS_AND_NORMALIZES and use.input_index < 2:
        other, bias = node.inputs[1 - use.input_index], node.input(4)
        return other, bias if bias is not None and _is_own(bias) else None
    return None, None
