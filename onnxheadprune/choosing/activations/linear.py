"""Contractions of an activation with stored weights, and how their result joins the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from onnxheadprune.attention.matrices import Matrix, Weights, matrix_of
from onnxheadprune.attention.quantized import Grid, packed_matrix, stored_grid
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.liveness.consumers import content_uses, contents_of
from onnxheadprune.liveness.index_notation import Notation, contraction_of
from onnxheadprune.liveness.layouts import layout_of
from onnxheadprune.liveness.packed_blocks import is_packed
from onnxheadprune.model.graph.operator import (
    ACTIVATES_PRODUCTS,
    ADDS_AND_NORMALIZES,
    DEQUANTIZES,
    QUANTIZERS,
    QUANTIZES,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array


@dataclass(frozen=True, eq=False)
class _WholeProduct:
    """A product of integers between floats."""

    source: Value  # the float that is quantized for it
    out: Value  # the float that is made of it
    levels: Callable[[], Grid]  # what the weight's levels mean


def _whole_product(node: Node, source: int, weight: int) -> _WholeProduct | None:
    """A node as a product of floats, None where it multiplies no stored levels or its scales are not found.

    Dynamic quantization writes `Mul(Cast(MatMulInteger(x, W)), Mul(scale of x, scale of W))`, static quantization
    `DequantizeLinear(QLinearMatMul(...))`, and fused operators do all of it. Each is `y = x W` of floats, W stored in
    levels.
    """
    roles = node.roles
    operand, x = node.input(weight), node.input(source)
    if roles.integer_weight != weight or operand is None or x is None:
        return None
    zero = None if roles.weight_zero is None else node.input(roles.weight_zero)
    before = x if x.elem_type in FLOATS else _float_before(x)
    if before is None or (zero is not None and not zero.is_constant):
        return None
    if roles.weight_scale is None:
        scaled = _scaled_behind(node, x)
        return (
            None
            if scaled is None
            else _WholeProduct(before, scaled[1], partial(stored_grid, scaled[0], zero))
        )
    scale = node.input(roles.weight_scale)
    if scale is None or not scale.is_constant:
        return None
    quantized = roles.output_scale is not None and node.input(roles.output_scale) is not None
    out = _float_behind(node.out) if quantized else node.out
    return None if out is None else _WholeProduct(before, out, partial(stored_grid, (scale,), zero))


def _only_use(value: Value) -> Use | None:
    """The one consumer of a value, None where there are others, or callers read it."""
    uses = content_uses(value)
    return uses[0] if len(uses) == 1 and not value.is_graph_output else None


def _only_use_of_float(value: Value) -> Use | None:
    """The one consumer of a value after the quantizers and dequantizers that merely round it."""
    use = _only_use(value)
    while use is not None and use.node in QUANTIZES and use.input_index == 0:
        back = _float_behind(use.node.out)
        use = None if back is None else _only_use(back)
    return use


def _float_before(value: Value) -> Value | None:
    node = value.producer
    if node is None or node not in QUANTIZERS or node.inputs[0] is None or node.outputs[0] is not value:
        return None
    return node.inputs[0] if node.inputs[0].elem_type in FLOATS else None


def _float_behind(value: Value) -> Value | None:
    use = _only_use(value)
    if use is None or use.node not in DEQUANTIZES or use.input_index != 0:
        return None
    return use.node.out


def _scaled_behind(node: Node, x: Value) -> tuple[tuple[Value, ...], Value] | None:
    """The factors of the weight's scale, and the float that a sum of integers becomes by it and the scale of x."""
    use = _only_use(node.out)
    if use is None or not is_a(use.node, "Cast"):
        return None
    value, factors = use.node.out, list[Value]()
    while (use := _only_use(value)) is not None and is_a(use.node, "Mul"):
        other = use.node.inputs[1 - use.input_index]
        leaves = None if other is None else list(_leaves(other))
        if leaves is None or not all(leaf.is_constant or leaf is _scale_of(x) for leaf in leaves):
            break
        factors += leaves
        value = use.node.out
        if any(leaf is _scale_of(x) for leaf in factors) and any(leaf.is_constant for leaf in factors):
            break
    measured = [leaf for leaf in factors if leaf is _scale_of(x)]
    stored = tuple(leaf for leaf in factors if leaf is not _scale_of(x))
    return (stored, value) if len(measured) == 1 and stored else None


def _leaves(value: Value) -> Iterator[Value]:
    node = value.producer
    if value.is_constant or node is None or not is_a(node, "Mul"):
        yield value
        return
    for item in node.inputs:
        if item is not None:
            yield from _leaves(item)


def _scale_of(x: Value) -> Value | None:
    """The scale that a quantized value was made with."""
    node = x.producer
    if node is None:
        return None
    return node.outputs[1] if is_a(node, "DynamicQuantizeLinear") else node.input(1)


PASSING = kind("Identity", "Dropout")
PROJECTS = (0, 1, 2)
"""Inputs of a fused attention that projects itself: x, the weight, and the bias of queries, keys and values."""


@dataclass(frozen=True, eq=False)
class Linear:
    """`y = x W + b` somewhere in the graph."""

    node: Node  # the contraction
    source: Value  # x, as a float: before it is quantized, where the product is one of integers
    axes: tuple[int, ...]  # contracted axes of x, in the order of the rows of W
    matrix: Weights  # W as [in, out]
    out: Value  # y as a float, the bias included where there is one
    out_axes: tuple[int, ...]  # axes of y that hold its features, in the order of the columns of W
    bias: Matrix | None  # the stored bias as [1, out], None without one that can be rewritten
    # a bias as [1, out] that stays unchanged, since something else reads it too; None without one
    fixed: Matrix | None
    other: Value | None  # what y is added to (the residual stream), None where it is not simply added
    is_late: bool = False  # whether the bias is only added after `out`
    joint: Node | None = None  # the node that adds them, None without `other`
    # whether the node is a fused attention that projects its queries, keys and values itself: y is no value
    # of the graph, and `out` what the attention makes of it
    is_inside: bool = False

    @classmethod
    def of(cls, projection: Projection) -> Linear | None:
        """A site's output projection as a linear layer, None where its weights are in no form to rewrite."""
        if projection.weight is None:
            return None
        return _linear(projection.node, *projection.activation, *projection.weight)

    @classmethod
    def at(cls, node: Node) -> Linear | None:
        """A node as a linear layer with stored weights, None if it is none or they are in no form to rewrite."""
        product = contraction_of(node)
        if product is None or len(product.terms) != 2:
            return None
        terms = [(index, axes) for index, axes in product.terms]
        for (source, left), (weight, right) in (terms, terms[::-1]):
            operand = node.inputs[weight]
            if operand is not None and operand.is_constant:
                letters = sorted(product.contracted, key=lambda letter: left.index(letter))
                return _linear(
                    node,
                    source,
                    tuple(left.index(letter) for letter in letters),
                    weight,
                    tuple(right.index(letter) for letter in letters),
                )
        return None

    @classmethod
    def inside(cls, node: Node) -> Linear | None:
        """The projection inside of a fused attention to queries, keys and values, None if it cannot be rewritten."""
        x, weight, offset = (node.input(index) for index in PROJECTS)
        if x is None or weight is None or not weight.is_constant or len(weight.shape or ()) != 2:
            return None
        matrix, own = matrix_of(weight, (0,), (1,)), _Bias()
        if offset is not None:
            own = (_stored_bias(offset) if offset.is_constant else None) or _Bias(is_known=False)
        if matrix is None or not own.is_known or x.shape is None or node.out.shape is None:
            return None
        last = (len(x.shape) - 1,), (len(node.out.shape) - 1,)
        return cls(node, x, last[0], matrix, node.out, last[1], own.bias, own.fixed, None, is_inside=True)

    @property
    def is_free(self) -> bool:
        """True if the weights can change by themselves, and rows and columns are where they are looked for."""
        last = (len(self.out.shape or ()) - 1,)
        return not (
            self.matrix.shared
            or self.matrix.is_quantized
            or any(value.scope.parent is not None for value in (self.source, self.out))
            or self.axes != last
            or self.out_axes != last
        )

    def read_bias(self) -> Array | None:
        """The bias as numbers, [out]."""
        return None if self.bias is None else self.bias.read().reshape(-1)

    def read_offset(self) -> Array | None:
        """Return what `out` holds beyond x W and the bias, [out]; None for nothing."""
        if self.is_late:
            assert self.bias is not None
            return -self.bias.read().reshape(-1)
        return None if self.fixed is None else self.fixed.read().reshape(-1)

    def written_bias(self, bias: Array) -> Array:
        """The stored form of a new bias [out]."""
        assert self.bias is not None
        return self.bias.written(bias.reshape(1, -1))


def feeders(value: Value) -> tuple[Linear, ...]:
    """The linear layers that a value is made of with no other one in between, in graph order.

    Paths that lead elsewhere (to graph inputs, lookups, weights that cannot be rewritten, shapes) are not told of.
    """
    layers: dict[int, Linear] = {}

    def above(item: Value) -> list[Value]:
        node = item.producer
        if node is None or item.is_constant:
            return []
        projects = _projects(node)
        linear = Linear.inside(node) if projects else Linear.at(node)
        if linear is None:
            return [] if projects else contents_of(node)
        layers[node.index] = linear
        return []

    for _ in reachable([value], above):
        pass
    return tuple(layers[index] for index in sorted(layers))


def _projects(node: Node) -> bool:
    """Return whether a fused attention projects its queries, keys and values itself."""
    layout = layout_of(node)
    return layout is not None and 0 not in layout.inputs


def _linear(
    node: Node, source: int, axes: tuple[int, ...], weight: int, weight_axes: tuple[int, ...]
) -> Linear | None:
    product = contraction_of(node)
    x, operand = node.inputs[source], node.inputs[weight]
    if product is None or x is None or operand is None or not operand.is_constant or not axes:
        return None
    if node in ACTIVATES_PRODUCTS:
        return None
    if node.attribute("alpha", 1.0) != 1.0 or node.attribute("beta", 1.0) != 1.0:
        return None
    if any(product.axes_of(weight)[axis] not in product.contracted for axis in weight_axes):
        return None  # A layer per head, which the next node adds up.
    columns = _columns(product, weight, weight_axes)
    whole = _whole_product(node, source, weight)
    if columns is None or (whole is None and x.elem_type not in FLOATS):
        return None
    free, out_axes = columns
    matrix: Weights | None
    if is_packed(node):
        matrix = packed_matrix(node)
    else:
        matrix = matrix_of(operand, weight_axes, free, None if whole is None else whole.levels)
    if matrix is None:
        return None
    out, x = (node.out, x) if whole is None else (whole.out, whole.source)
    own = _own_bias(node)
    if own is None:
        own = _late_bias(out, out_axes)
    if not own.is_known:
        return None
    joined = _joined(own.out or out)
    out = own.out or out
    is_late = joined.bias is not None and own.bias is None and own.fixed is None
    bias = joined.bias if is_late else own.bias
    return Linear(node, x, axes, matrix, out, out_axes, bias, own.fixed, joined.other, is_late, joined.node)


def _columns(
    product: Notation, weight: int, contracted: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Axes of the weight that reach the output, and where they arrive."""
    letters = product.axes_of(weight)
    free = tuple(
        axis
        for axis, letter in enumerate(letters)
        if axis not in contracted and letter is not None and letter in product.out_axes
    )
    names = [letters[axis] for axis in free]
    if not free or any(len(product.owners(str(name))) > 1 for name in names):
        return None
    return free, tuple(product.out_axes.index(str(name)) for name in names)


@dataclass(frozen=True, eq=False)
class _Bias:
    """The bias of a product: its own alone, or fixed; and the value after it, where it is another one."""

    bias: Matrix | None = None
    fixed: Matrix | None = None
    out: Value | None = None
    is_known: bool = True


def _own_bias(node: Node) -> _Bias | None:
    """The bias that a node adds itself, None where it adds none."""
    roles = node.roles
    for index, levels in ((roles.bias, None), (roles.integer_bias, _bias_levels(node))):
        value = None if index is None else node.input(index)
        if value is not None:
            return _stored_bias(value, levels) or _Bias(is_known=False)
    return None


def _bias_levels(node: Node) -> Callable[[], Grid] | None:
    """Return what a bias of whole numbers means: units of both scales multiplied."""
    roles = node.roles
    if roles.integer_bias is None or roles.scales is None:
        return None
    sides = tuple(side for index in roles.scales if (side := node.input(index)) is not None)
    return partial(stored_grid, sides) if all(side.is_constant for side in sides) else None


def _stored_bias(value: Value, levels: Callable[[], Grid] | None = None) -> _Bias | None:
    """A bias [out], None where its numbers are not known."""
    if len(value.shape or ()) != 1:
        return None
    matrix = matrix_of(value, (), (0,), levels)
    if matrix is None:
        return None
    # What is shared stays unchanged, but it is there.
    return _Bias(fixed=matrix) if matrix.shared else _Bias(matrix)


def _late_bias(out: Value, out_axes: tuple[int, ...]) -> _Bias:
    """The bias that is added to a product after it, and the value after that."""
    use = _only_use_of_float(out)
    if use is None or not is_a(use.node, "Add") or use.node.domain:
        return _Bias()
    other = use.node.inputs[1 - use.input_index]
    rank = len(use.node.out.shape or ())
    if other is None or not other.is_constant or out_axes != (rank - 1,):
        return _Bias()
    bias = _stored_bias(other)
    return _Bias() if bias is None else _Bias(bias.bias, bias.fixed, use.node.out)


@dataclass(frozen=True, eq=False)
class _Joint:
    """The value that another one is added to, the node that adds them, and the bias of a fused addition."""

    other: Value | None = None
    node: Node | None = None
    bias: Matrix | None = None


def _joined(out: Value) -> _Joint:
    """Return how a value joins the residual stream, if it does."""
    use = _only_use_of_float(out)
    while use is not None and use.node in PASSING:
        use = _only_use_of_float(use.node.out)
    if use is None:
        return _Joint()
    node, late = use.node, None
    if node in ADDS_AND_NORMALIZES and use.input_index < 2:
        late = node.input(4)
    elif not is_a(node, "Add") or node.domain:
        return _Joint()
    late_bias = None if late is None else _stored_bias(late)
    bias = None if late_bias is None else late_bias.bias
    other = node.inputs[1 - use.input_index]
    if other is None or other.is_constant or other.shape is None or out.shape is None:
        return _Joint(bias=bias)
    # What is spread over the other operand is a gate or a position, and gives no rows of its own.
    if [dim == 1 for dim in other.shape] != [dim == 1 for dim in out.shape]:
        return _Joint(bias=bias)
    return _Joint(other, node, bias)
