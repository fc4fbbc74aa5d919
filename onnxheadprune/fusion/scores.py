"""From the softmax up to the product of queries and keys: factors and additive biases on the way.

Values that hold one number everywhere: masks that mask nothing.

Recent exporters write a mask for every attention, also for images, where all of it is visible. An attention
without a bias runs in faster kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from onnxheadprune.attention.sites.products import is_product
from onnxheadprune.fusion.layout import Axis, Layout
from onnxheadprune.fusion.roles import cannot, float_product
from onnxheadprune.fusion.walk import SCALES, layout_above
from onnxheadprune.liveness.registry import Reason, Refusal
from onnxheadprune.model.graph.facts import (
    ADDS,
    ADDS_ALL,
    CASTS,
    CHOOSES_ELEMENTS,
    EXPANDS,
    MULTIPLIES,
    SUBTRACTS,
)
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import scalar_of, type_of, uniform

TERMS = ADDS | SUBTRACTS | ADDS_ALL
MAX_STEPS = 48


@dataclass(frozen=True, eq=False)
class Bias:
    """One term that is added to the scores.

    Attributes:
        value: the term; for a masked fill, the condition.
        layout: what its axes enumerate.
        doubtful: axes that may be one long when the model runs, so that the layout does not hold for them.
        factor: the term counts this many times.
        fill: for a masked fill `Where(condition, ...)`, the value that masked scores get.
        masked_if: the condition's value where scores are masked.
    """

    value: Value
    layout: Layout
    doubtful: frozenset[int]
    factor: float = 1.0
    fill: Value | None = None
    masked_if: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """`factor * product + biases`."""

    product: Node
    layout: Layout
    factor: float
    biases: tuple[Bias, ...]


def read_scores(value: Value, layout: Layout) -> Scores | Refusal:
    """Return what the scores are made of, nearest term first."""
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
        if is_product(node) is not None and float_product(node) is not None:
            alpha = float(node.attribute("alpha", 1.0))
            return Scores(node, layout, factor * alpha, biases)
        if node in TERMS:
            return _sum(node, layout, factor, biases, steps)
        step = _step(node, layout, factor)
        if isinstance(step, Refusal):
            return step
        value, layout, factor, found = step
        biases = (*biases, *found)
    return (
        cannot(value.producer, "the scores are too far from the softmax")
        if value.producer
        else Refusal(Reason.NOT_FUSIBLE, value.name, value.name, "the scores are too far from the softmax")
    )


Step = tuple[Value, Layout, float, tuple[Bias, ...]]


def _step(node: Node, layout: Layout, factor: float) -> Step | Refusal:
    """One node up that has a single input that matters."""
    if node in SCALES:
        return _scaled(node, layout, factor)
    if node in CHOOSES_ELEMENTS:
        return _filled(node, layout, factor)
    source = node.input(0)
    if source is None or node in EXPANDS or source.shape is None:
        return cannot(node, f"{node.label} stands between the scores and the softmax")
    above = layout if node in CASTS else layout_above(node, layout)
    if above is None:
        return cannot(node, f"{node.label} stands between the scores and the softmax")
    return source, above, factor, ()


def _scaled(node: Node, layout: Layout, factor: float) -> Step | Refusal:
    for index in (0, 1) if node in MULTIPLIES else (0,):
        source, number = node.input(index), scalar_of(node.input(1 - index))
        if source is None or not number or source.shape is None or len(source.shape) != len(layout):
            continue
        return source, layout, factor * (number if node in MULTIPLIES else 1 / number), ()
    return cannot(node, f"{node.label} scales the scores by more than one number")


def _filled(node: Node, layout: Layout, factor: float) -> Step | Refusal:
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
    for index in (0, 1) if node not in SUBTRACTS else (0,):
        source, term = node.inputs[index], node.inputs[1 - index]
        if source is None or term is None or source.shape is None or len(source.shape) != len(layout):
            continue
        bias = _aligned(term, layout, node)
        if bias is None:
            first = first or cannot(node, f"the shape of {term.name} does not fit the scores")
            continue
        bias = replace(bias, factor=-factor if node in SUBTRACTS else factor)
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
