"""The roles of an attention product's axes: batch, head, query, key or feature."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.attention.sites.core import Core
from onnxheadprune.fusion.layout import Atom, Axis, Layout, axis_of, flat, size_of
from onnxheadprune.liveness.contraction import Contraction, contraction_of
from onnxheadprune.liveness.registry import Reason, Refusal
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.facts import MULTIPLIES_FLOATS
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
    product = float_product(node)
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


def float_product(node: Node) -> Contraction | None:
    """The node as a product of two float tensors."""
    product = contraction_of(node) if node in MULTIPLIES_FLOATS else None
    return product if product is not None and len(product.indices) == 2 else None


def _letters(core: Core, product: Contraction) -> dict[str, Axis] | None:
    """The atoms along each axis of the core's output."""
    shape = core.node.out.shape
    assert shape is not None
    if core.runs:
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


def _operand(node: Node, product: Contraction, index: int, letters: dict[str, Axis]) -> Operand | None:
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
    product = float_product(node)
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
