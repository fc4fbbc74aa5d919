"""Einsum: its propagation rule is that of every contraction (`matmul.py`)."""

from __future__ import annotations

from onnxheadprune.liveness.contraction import PRODUCTS, Contraction, Product
from onnxheadprune.model.graph.broadcasting import broadcast_dim
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.facts import MULTIPLIES_FLOATS, SUMS_PRODUCTS
from onnxheadprune.model.graph.tables import Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("Einsum", kinds=(SUMS_PRODUCTS, MULTIPLIES_FLOATS))


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


PRODUCTS.add(("Einsum",), "", Product(_letters, None))


def einsum_terms(node: Node) -> list[str] | None:
    """Letters per operand and, last, of the output; an ellipsis is spelled with capital letters."""
    equation = str(node.attribute("equation", "")).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    shapes = [node.shape(index) for index in range(len(terms))]
    if len(terms) != len(node.inputs) or any(shape is None for shape in shapes):
        return None
    spare = [letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in equation]
    ranks = [
        len(shape or ()) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)
    ]
    width = max([rank for rank, term in zip(ranks, terms, strict=True) if "..." in term], default=0)
    dots = "".join(spare[:width][::-1])
    terms = [term.replace("...", dots[width - rank :]) for term, rank in zip(terms, ranks, strict=True)]
    if arrow:
        output = output.replace("...", dots)
    else:
        joined = "".join(terms)
        output = dots + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in dots))
    return [*terms, output]
