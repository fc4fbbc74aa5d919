"""MatMulNBits: a weight in blocks of a few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.blocks import cut_columns
from onnxheadprune.liveness.contraction import PRODUCTS, Contraction, Product, contraction_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, rule, unknown_shape
from onnxheadprune.model.graph.facts import MULTIPLIES_MATRICES, PACKS_BLOCKS, SUMS_PRODUCTS
from onnxheadprune.model.graph.tables import (
    Roles,
    Shapes,
    cost_function,
    declare,
    shape_function,
    size_of,
)
from onnxheadprune.model.graph.view import Node

declare(
    "MatMulNBits",
    domain="com.microsoft",
    kinds=(SUMS_PRODUCTS, MULTIPLIES_MATRICES, PACKS_BLOCKS),
    roles=Roles(bias=5, alike=(0,)),
)


@shape_function("MatMulNBits", domain="com.microsoft")
def _n_bits_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else (*shape[:-1], node.attribute("N"))]


@cost_function("MatMulNBits", "MatMulBnb4", domain="com.microsoft")
def _n_bits_cost(node: Node) -> int | None:
    rows = node.shape(0)
    count = None if rows is None else size_of(rows)
    return None if count is None else 2 * count * int(node.attribute("N", 0))


@rule("MatMulNBits", domain="com.microsoft")
def _packed(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Columns of a blockwise quantized weight are independent of each other."""
    found, last = contraction_of(node), len(node.shape(0) or ()) - 1
    if found is None:
        return unknown_shape(node)
    columns = lives[0].only([last])
    columns = columns.renumbered(dict.fromkeys(columns.axes, 0))
    rows = lives[0].only([axis for axis in lives[0].axes if axis != last])
    count = columns.extent(0)[0] if columns.axes else node.attribute("N")

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return [SetAttribute(node.ref, "N", count)] if count != node.attribute("N") else []

    return Answer({0: rows, **cut_columns(node, columns)}, rewrite)


def _letters(node: Node) -> Contraction | None:
    """A weight in blocks, `[N, K / block, bytes]`; its summed axis counts blocks (see `blocks.py`)."""
    left = node.shape(0)
    if left is None:
        return None
    batch = tuple(f"b{axis}" for axis in range(len(left) - 1))
    return Contraction(((0, (*batch, "k")), (1, ("n", "k", None))), (*batch, "n"))


PRODUCTS.add(("MatMulNBits",), "com.microsoft", Product(_letters, 1))
