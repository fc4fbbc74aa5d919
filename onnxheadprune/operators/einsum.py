"""Einsum: its law is that of every contraction (`matmul.py`)."""

from __future__ import annotations

from onnxheadprune.edit.gradients import Constant, Partials, Step, gradient
from onnxheadprune.edit.terms import Term
from onnxheadprune.liveness.contraction import PRODUCTS, Contraction, Product
from onnxheadprune.model.graph.broadcasting import broadcast_dim
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.equations import einsum_terms
from onnxheadprune.model.graph.facts import MULTIPLIES_FLOATS, SUMS_PRODUCTS
from onnxheadprune.model.graph.tables import Shapes, shape_function
from onnxheadprune.model.graph.view import Node

SUMS_PRODUCTS.add("Einsum")


@shape_function("Einsum")
def _einsum_shape(node: Node) -> Shapes:
    terms = einsum_terms(node)
    if terms is None:
        return [None]
    *inputs, output = terms
    sizes: dict[str, Dim] = {}
    for index, term in enumerate(inputs):
        shape = node.shape(index)
        if shape is None or len(shape) != len(term):
            return [None]
        for letter, dim in zip(term, shape, strict=True):
            sizes[letter] = broadcast_dim(sizes.get(letter, 1), dim)
    return [tuple(sizes[letter] for letter in output)]


def _letters(node: Node) -> Contraction | None:
    terms = einsum_terms(node)
    if terms is None or any(len(set(term)) != len(term) for term in terms):
        return None
    *inputs, out = terms
    return Contraction(tuple((index, tuple(term)) for index, term in enumerate(inputs)), tuple(out))


MULTIPLIES_FLOATS.add("Einsum")
PRODUCTS.add(("Einsum",), "", Product(_letters, None))


@gradient("Einsum")
def einsum_gradient(step: Step) -> Partials:
    """The letters of the operand as the output, and those of the output in place of the operand.

    A letter that only this operand has was summed over: the gradient is repeated along it.
    """
    terms = einsum_terms(step.node)
    if terms is None or any(len(set(term)) != len(term) for term in terms):
        held = Constant("has an equation with diagonals or unknown ranks")
        return dict.fromkeys(range(len(step.node.inputs)), held)
    *inputs, out = terms
    partials: dict[int, Term | Constant] = {}
    for index in sorted(step.wanted):
        others = [i for i in range(len(inputs)) if i != index]
        reach = set(out).union(*(inputs[i] for i in others))
        own = inputs[index]
        found = "".join(letter for letter in own if letter in reach)
        equation = ",".join([out, *(inputs[i] for i in others)]) + "->" + found
        term = step.grad.op("Einsum", *(step.input(i) for i in others), equation=equation)
        missing = [axis for axis, letter in enumerate(own) if letter not in reach]
        x, shape = step.input(index), step.shape(index)
        term = term.unsqueeze(missing).expand(x.shape()) if missing else term
        ones = [axis for axis, dim in enumerate(shape) if dim == 1]
        partials[index] = term.sum(ones) if ones else term
    return partials
