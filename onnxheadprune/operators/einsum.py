"""Einsum: its law is that of every contraction (`matmul.py`)."""

from __future__ import annotations

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
