"""The parts of an attention core `softmax(factor * q k + bias) v`, read off the graph.

Nothing is recognised by name. The walk starts at the product of probabilities and values that site detection
found, and each step up has an algebraic meaning; a step without one ends it with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from onnxheadprune.attention.sites.core import Core
from onnxheadprune.attention.sites.products import is_product
from onnxheadprune.fusion.walk import (
    SCALES,
    Atom,
    Axis,
    Layout,
    axis_of,
    flat,
    layout_above,
    size_of,
    unscaled,
)
from onnxheadprune.liveness.index_notation import Notation, contraction_of
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.elements import scalar_of, uniform
from onnxheadprune.model.graph.operator import MULTIPLIES_FLOATS, is_a, kind
from onnxheadprune.model.graph.types import type_of
from onnxheadprune.model.graph.view import Node, Value


@dataclass(frozen=True, eq=False)
class Operand:
    """A value and its layout; an axis without atoms is one long, or repeated for all others."""

    value: Value
    layout: Layout


@dataclass(frozen=True, eq=False)
class CoreRoles:
    """The product of attention weights and values."""

    weights: Operand
    values: Operand
    context: Layout


def cannot(node: Node, sentence: str) -> Refusal:
    """Return why a site is not fused."""
    return Refusal(Reason.NOT_FUSIBLE, node.label, node.out.name, sentence)


def core_roles(core: Core) -> CoreRoles | Refusal:
    """The roles of all axes of a core, from what site detection knows of its heads."""
    node = core.node
    product = _float_product(node)
    if product is None or node.out.shape is None:
        return cannot(node, f"{node.label} is no product of two float tensors of known rank")
    if node.attribute("alpha", 1.0) != 1.0:
        return cannot(node, f"{node.label} scales the context")
    values = product.owners(product.out_axes[core.feature_axes[0]])[0]
    weights = next(index for index in product.indices if index != values)
    letters = _letters(core, product)
    summed = sorted(product.contracted)
    if letters is None or len(summed) != 1:
        return cannot(node, f"the axes of {node.label} cannot be told apart")
    letters[summed[0]] = (Atom("t", 0),)
    operands = [_operand(node, product, index, letters) for index in (weights, values)]
    if operands[0] is None or operands[1] is None:
        return cannot(node, f"the sizes of the operands of {node.label} are not known")
    context = tuple(axis_of(*letters[letter]) for letter in product.out_axes)
    return CoreRoles(operands[0], operands[1], context)


def _float_product(node: Node) -> Notation | None:
    """The node as a product of two float tensors."""
    product = contraction_of(node) if node in MULTIPLIES_FLOATS else None
    return product if product is not None and len(product.indices) == 2 else None


def _letters(core: Core, product: Notation) -> dict[str, Axis] | None:
    """The atoms along each axis of the core's output."""
    shape = core.node.out.shape
    assert shape is not None
    if core.repeats:
        return None
    letters: dict[str, Axis] = {}
    several = len(core.head_axes) > 1
    for axis, letter in enumerate(product.out_axes):
        outer = f"b{axis}" if letter in product.batch else f"s{axis}"
        if axis in core.feature_axes:
            letters[letter] = (Atom("d", shape[axis]),)
        elif axis not in core.head_axes:
            letters[letter] = (Atom(outer, shape[axis]),)
        elif several:
            if not isinstance(shape[axis], int):
                return None
            letters[letter] = (Atom(f"h{axis}", shape[axis]),)
        else:
            found = _merged(core.heads, shape[axis], outer)
            if found is None:
                return None
            letters[letter] = found
    total = dims.product(a.size for axis in letters.values() for a in axis if a.role == "h")
    return letters if total == len(set(core.heads)) and len(core.feature_axes) == 1 else None


def _merged(heads: tuple[frozenset[int], ...], size: Dim, outer: str) -> Axis | None:
    """The atoms of an axis that may hold the heads together with a batch or the rows (`nn.MultiheadAttention`)."""
    count = len(set(heads))
    rest = dims.divide(size, count)
    if rest is None or not count:
        return None
    if rest == 1:
        return (Atom("h", count),)
    if all(labels == heads[position % count] for position, labels in enumerate(heads)):
        return Atom(outer, rest), Atom("h", count)
    if isinstance(rest, int) and all(
        heads[position] == heads[position // rest * rest] for position in range(len(heads))
    ):
        return Atom("h", count), Atom(outer, rest)
    return None


def _operand(node: Node, product: Notation, index: int, letters: dict[str, Axis]) -> Operand | None:
    """An operand whose axes have the atoms of their letters, sized as its own shape says."""
    value = node.inputs[index]
    if value is None or value.shape is None:
        return None
    layout: list[Axis] = []
    for letter, dim in zip(product.axes_of(index), value.shape, strict=True):
        atoms = () if letter is None else letters[letter]
        if len(atoms) == 1:
            atoms = (Atom(atoms[0].name, dim),)
        elif atoms and size_of(atoms) != dim:
            return None
        layout.append(axis_of(*atoms))
    return Operand(value, tuple(layout))


def score_operands(node: Node, layout: Layout) -> tuple[Operand, Operand] | Refusal:
    """Queries and keys of the product that gives scores of a layout."""
    product = _float_product(node)
    if product is None or len(product.contracted) != 1 or len(product.out_axes) != len(layout):
        return cannot(node, f"{node.label} is no product of queries and keys")
    letters = dict(zip(product.out_axes, layout, strict=True))
    letters[next(iter(product.contracted))] = (Atom("k", 0),)
    found = [_operand(node, product, index, letters) for index in product.indices]
    if found[0] is None or found[1] is None:
        return cannot(node, f"the sizes of the operands of {node.label} are not known")
    operands = (found[0], found[1])
    roles = [{atom.role for atom in flat(operand.layout)} for operand in operands]
    if "s" in roles[1] or "t" in roles[0]:
        operands, roles = operands[::-1], roles[::-1]
    if "s" in roles[1] or "t" in roles[0]:
        return cannot(node, f"{node.label} mixes query and key positions")
    return operands


TERMS = kind("Add", "Sub", "Sum")
MAX_STEPS = 48


@dataclass(frozen=True, eq=False)
class Bias:
    """One term that is added to the scores."""

    value: Value  # the term; for a masked fill, the condition
    layout: Layout  # what its axes enumerate
    # axes that may be one long when the model runs, so that the layout does not hold for them
    doubtful: frozenset[int]
    factor: float = 1.0  # the term counts this many times
    fill: Value | None = None  # for a masked fill `Where(condition, ...)`, the value that masked scores get
    masked_if: bool = False  # the condition's value where scores are masked


@dataclass(frozen=True, eq=False)
class Scores:
    """`factor * product + biases`."""

    product: Node
    layout: Layout
    factor: float
    biases: tuple[Bias, ...]


def read_scores(value: Value, layout: Layout) -> Scores | Refusal:
    """Return the product of queries and keys, the factor that scales it, and the biases added to it."""
    return _read(value, layout, 1.0, (), MAX_STEPS)


def _read(
    value: Value, layout: Layout, factor: float, biases: tuple[Bias, ...], steps: int
) -> Scores | Refusal:
    for _ in range(steps):
        node = value.producer
        if node is None or node.domain not in ("", "com.microsoft") or value.is_constant:
            return Refusal(
                Reason.NOT_FUSIBLE, value.name, value.name, f"{value.name} is no product of queries and keys"
            )
        if is_product(node) is not None and _float_product(node) is not None:
            alpha = float(node.attribute("alpha", 1.0))
            return Scores(node, layout, factor * alpha, biases)
        if node in TERMS:
            return _sum(node, layout, factor, biases, steps)
        step = _step(node, layout, factor)
        if isinstance(step, Refusal):
            return step
        value, layout, factor, found = step
        biases = (*biases, *found)
    return Refusal(Reason.NOT_FUSIBLE, value.name, value.name, "the scores are too far from the softmax")


_Term = tuple[Value, Layout, float, tuple[Bias, ...]]


def _step(node: Node, layout: Layout, factor: float) -> _Term | Refusal:
    """One node up that has a single input that matters."""
    if node in SCALES:
        scaled = unscaled(node, len(layout))
        if scaled is None:
            return cannot(node, f"{node.label} scales the scores by more than one number")
        return scaled[0], layout, factor * scaled[1], ()
    if is_a(node, "Where"):
        return _filled(node, layout, factor)
    source = node.input(0)
    if source is None or is_a(node, "Expand") or source.shape is None:
        return cannot(node, f"{node.label} stands between the scores and the softmax")
    above = layout if is_a(node, "Cast") else layout_above(node, layout)
    if above is None:
        return cannot(node, f"{node.label} stands between the scores and the softmax")
    return source, above, factor, ()


def _filled(node: Node, layout: Layout, factor: float) -> _Term | Refusal:
    """`Where(condition, scores, fill)`: a bias, if the fill swallows every score."""
    condition = node.inputs[0]
    for index, masked_if in ((1, False), (2, True)):
        source, fill = node.input(index), node.input(3 - index)
        number = scalar_of(fill)
        if source is None or fill is None or number is None or condition is None or source.is_constant:
            continue
        if source.shape is None or len(source.shape) != len(layout) or factor <= 0:
            break
        if uniform(condition) == float(not masked_if):
            return source, layout, factor, ()
        if not _swallows(number, type_of(fill) or type_of(source)):
            return cannot(
                node,
                f"{node.label} sets masked scores to {number:g}, which a bias does not do where all of a row is masked",
            )
        found = _aligned(condition, layout, node)
        if found is None:
            break
        return source, layout, factor, (replace(found, fill=fill, masked_if=masked_if),)
    return cannot(node, f"{node.label} chooses scores in a way that is no mask")


def _swallows(fill: float, elem_type: int) -> bool:
    """Return whether `fill + score` is `fill` for every score that occurs: the lowest float, or minus infinity.

    The lowest half-precision number is not low enough: kernels add in float.
    """
    if elem_type == TensorProto.FLOAT16:
        return fill == -np.inf
    return fill <= float(np.finfo(np.float32).min) / 2


def _sum(node: Node, layout: Layout, factor: float, biases: tuple[Bias, ...], steps: int) -> Scores | Refusal:
    """One term leads to the product of queries and keys, the other is a bias."""
    if len(node.inputs) != 2:
        return cannot(node, f"{node.label} adds more than two terms")
    first: Refusal | None = None
    for index in (0, 1) if not is_a(node, "Sub") else (0,):
        source, term = node.inputs[index], node.inputs[1 - index]
        if source is None or term is None or source.shape is None or len(source.shape) != len(layout):
            continue
        bias = _aligned(term, layout, node)
        if bias is None:
            first = first or cannot(node, f"the shape of {term.name} does not fit the scores")
            continue
        bias = replace(bias, factor=-factor if is_a(node, "Sub") else factor)
        terms = biases if uniform(term) == 0 else (*biases, bias)
        found = _read(source, layout, factor, terms, steps - 1)
        if isinstance(found, Scores):
            return found
        first = first or found
    return first or cannot(node, f"{node.label} adds terms whose shapes are not known")


def _aligned(value: Value, layout: Layout, node: Node) -> Bias | None:
    """A term of an element-wise operator, its axes aligned with those of the result."""
    shape, scores = value.shape, node.out.shape
    if shape is None or scores is None or len(shape) > len(layout):
        return None
    own: list[Axis] = []
    doubtful = set()
    offset = len(layout) - len(shape)
    for axis, dim in enumerate(shape):
        if dim == 1:
            own.append(())
            continue
        if isinstance(dim, int) and isinstance(scores[axis + offset], int) and dim != scores[axis + offset]:
            return None
        if dim != scores[axis + offset]:
            doubtful.add(axis)
        own.append(layout[axis + offset])
    return Bias(value, tuple(own), frozenset(doubtful))


@dataclass(frozen=True, eq=False)
class Match:
    """An attention, taken apart."""

    core: Node  # the product of probabilities and values
    softmax: Node
    # the product of queries and keys. query, key, value: the operands of the two products; an axis without
    # atoms is repeated.
    product: Node
    query: Operand
    key: Operand
    value: Operand
    context: Layout  # the layout of the core's output
    factor: float  # what the product of queries and keys is multiplied by
    biases: tuple[Bias, ...]  # what is added to the scores
    zero_nan: bool  # whether rows whose softmax is not a number count as zeros

    @property
    def elem_type(self) -> int:
        """The element type of the products; float where it is unknown."""
        values = (self.query.value, self.key.value, self.value.value, self.core.out, self.softmax.out)
        return next((found for value in values if (found := type_of(value))), int(TensorProto.FLOAT))

    @staticmethod
    def atoms(role: str, layout: Layout) -> Axis:
        """The atoms of one role in a layout, in their order."""
        return tuple(atom for axis in layout for atom in axis if atom.role == role)


def match(core: Core) -> Match | Refusal:
    """Take apart the attention that ends in a core, or return what is in the way."""
    roles = core_roles(core)
    if isinstance(roles, Refusal):
        return roles
    normalized = _softmax(roles.weights.value, roles.weights.layout)
    if isinstance(normalized, Refusal):
        return normalized
    softmax, layout, zero_nan = normalized
    scores = read_scores(softmax.inputs[0], layout)  # type: ignore[arg-type]
    if isinstance(scores, Refusal):
        return scores
    operands = score_operands(scores.product, scores.layout)
    if isinstance(operands, Refusal):
        return operands
    query, key, values, context = _agreed(*operands, roles.values, roles.context)
    return Match(
        core.node,
        softmax,
        scores.product,
        query,
        key,
        values,
        context,
        scores.factor,
        scores.biases,
        # Without a bias every query sees a key.
        zero_nan and bool(scores.biases),
    )


def _agreed(
    query: Operand, key: Operand, values: Operand, context: Layout
) -> tuple[Operand, Operand, Operand, Layout]:
    """The same layouts, sizes that are a number here and a symbol there spelled by the symbol.

    Files declare shapes that hold for one input only. Then the number is the one not to rely on.
    """
    layouts = (query.layout, key.layout, values.layout, context)
    open_sizes = {
        atom.name: atom for layout in layouts for atom in flat(layout) if not isinstance(atom.size, int)
    }

    def agreed(layout: Layout) -> Layout:
        return tuple(
            tuple(open_sizes.get(atom.name, atom) if isinstance(atom.size, int) else atom for atom in axis)
            for axis in layout
        )

    operands = [Operand(item.value, agreed(item.layout)) for item in (query, key, values)]
    return operands[0], operands[1], operands[2], agreed(context)


def _softmax(value: Value, layout: Layout) -> tuple[Node, Layout, bool] | Refusal:
    """The softmax behind the probabilities, the layout of its output, and whether NaN is replaced by zero."""
    zero_nan = False
    while True:
        node = value.producer
        if node is None or node.domain:
            return _no(value, "the attention weights come from no softmax")
        if is_a(node, "Softmax"):
            return _along_keys(node, layout, zero_nan)
        source = _nan_to_zero(node)
        if source is not None:
            value, zero_nan = source, True
            continue
        above = layout if is_a(node, "Cast") else layout_above(node, layout)
        if above is None or node.input(0) is None or is_a(node, "Expand"):
            return _no(value, f"{node.label} stands between the softmax and the values")
        value, layout = node.inputs[0], above  # type: ignore[assignment]


def _along_keys(node: Node, layout: Layout, zero_nan: bool) -> tuple[Node, Layout, bool] | Refusal:
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1) % len(layout)
    mixed = layout[axis] if node.opset >= 13 else tuple(atom for part in layout[axis:] for atom in part)
    if any(atom.role != "t" for atom in mixed) or not _all_keys(mixed, layout):
        return _no(node.out, f"{node.label} does not run along the keys alone")
    return node, layout, zero_nan


def _all_keys(mixed: Axis, layout: Layout) -> bool:
    return sum(1 for axis in layout for atom in axis if atom.role == "t") == len(mixed)


def _nan_to_zero(node: Node) -> Value | None:
    """The source of `Where(IsNaN(x), 0, x)`, as exporters write a softmax that masks whole rows."""
    if not is_a(node, "Where") or scalar_of(node.input(1)) != 0:
        return None
    condition = node.inputs[0]
    test = None if condition is None else condition.producer
    if test is None or not is_a(test, "IsNaN") or test.inputs[0] is not node.inputs[2]:
        return None
    return node.inputs[2]


def _no(value: Value, sentence: str) -> Refusal:
    label = value.name if value.producer is None else value.producer.label
    return Refusal(Reason.NOT_FUSIBLE, label, value.name, sentence)
