"""The parts of an attention core `softmax(factor * q k + bias) v`, read off the graph.

Nothing is recognised by name. The walk starts at the product of probabilities and values that site detection
found, and each step up has an algebraic meaning; a step without one ends it with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from onnxheadprune.attention.sites.core import Core
from onnxheadprune.fusion.scores import Bias, Operand, core_roles, read_scores, score_operands
from onnxheadprune.fusion.walk import Axis, Layout, flat, layout_above
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.model.graph.element_types import type_of
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.scalars import scalar_of
from onnxheadprune.model.graph.view import Node, Value


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
