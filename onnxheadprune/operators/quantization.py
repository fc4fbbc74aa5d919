"""Quantization: scales, zero points and packed blocks of MatMulNBits follow the axis they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import TensorProto

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.index_notation import (
    Letters,
    Notation,
    broadcast,
    contraction_of,
    numbered,
)
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.packed_blocks import cut_columns
from onnxheadprune.liveness.refusals import Refusal, coupled, unknown_shape
from onnxheadprune.model.graph.dims import size_of
from onnxheadprune.model.graph.operator import (
    ACTIVATES,
    DEQUANTIZES,
    MULTIPLIES_MATRICES,
    QUANTIZES,
    ROUNDS_ACTIVATIONS,
    SUMS_PRODUCTS,
    Roles,
    Shapes,
)
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.record import operator


def _linear(node: Node) -> Notation | None:
    """Per tensor: nothing follows. Per axis: one scale per index. Blocked: only whole blocks could go."""
    shape, scale = node.shape(0), node.shape(1)
    if shape is None or scale is None:
        return None
    letters, axis = numbered(len(shape)), node.attribute("axis", 1)
    along: Letters = ()
    whole: tuple[str, ...] = ()
    if len(scale) == 1 and scale[0] != 1:
        along = (letters[axis],)
    elif len(scale) == 1:
        along = (None,)
    elif scale:
        whole = letters[axis : axis + 1] if node.attribute("block_size", 0) else letters
        along = tuple(None if letter in whole else letter for letter in letters)
    given = [index for index in (1, 2) if node.input(index) is not None]
    terms = ((0, letters), *((index, along) for index in given))
    return Notation(terms, letters, whole=frozenset(whole))


def _dynamic(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The range is taken over the whole tensor, so removed heads would change it for the others.

    One case is exact: a context that only projections read. In the masked reference the silenced heads
    are zero there, and this operator always includes zero in its range.
    """
    output = node.out
    if output.is_graph_output or not all(
        _sums_over(use.node, use.input_index, lives[0]) for use in output.consumers
    ):
        return coupled(node)
    return Answer({0: lives[0]}, kept=(lives[0], FULL, FULL))


def _sums_over(node: Node, index: int, live: Live) -> bool:
    found = contraction_of(node)
    if found is None or index not in found.indices:
        return False
    return all(found.axes_of(index)[axis] in found.contracted for axis in live.axes)


def _n_bits_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else (*shape[:-1], node.attribute("N"))]


def _n_bits_cost(node: Node) -> int | None:
    rows = node.shape(0)
    count = None if rows is None else size_of(rows)
    return None if count is None else 2 * count * int(node.attribute("N", 0))


def _n_bits_packed(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
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


def _n_bits_letters(node: Node) -> Notation | None:
    """A weight in blocks, `[N, K / block, bytes]`; its summed axis counts blocks (see `packed_blocks.py`)."""
    left = node.shape(0)
    if left is None:
        return None
    batch = tuple(f"b{axis}" for axis in range(len(left) - 1))
    return Notation(((0, (*batch, "k")), (1, ("n", "k", None))), (*batch, "n"))


operator(
    "QuantizeLinear",
    "com.microsoft.QuantizeLinear",
    kinds=(QUANTIZES,),
    roles=Roles(contents=(0,), alike=(2,), types={0: int(TensorProto.UINT8)}, output_zero=2),
    axes=_linear,
)
operator(
    "DequantizeLinear",
    "com.microsoft.DequantizeLinear",
    kinds=(DEQUANTIZES,),
    roles=Roles(contents=(0,), alike=(1,), zero_points={0: 2}),
    axes=_linear,
)
operator(
    "DynamicQuantizeLinear",
    kinds=(ROUNDS_ACTIVATIONS,),
    shape=lambda node: [node.shape(0)],
    rule=_dynamic,
)
# Two operands with their scales: `A, As, Az, B, Bs, Bz, Cs, Cz`.
operator(
    "com.microsoft.QLinearAdd",
    "com.microsoft.QLinearMul",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(alike=(0,), zero_points={0: 2, 3: 5}, output_zero=7),
    axes=lambda node: broadcast(node, (0, 3)),
)
operator(
    "com.microsoft.QLinearWhere",
    "com.microsoft.QLinearReduceMean",
    "com.microsoft.QLinearAveragePool",
    "com.microsoft.QLinearGlobalAveragePool",
    "com.microsoft.QOrderedGelu",
    "com.microsoft.QOrderedLayerNormalization",
    "com.microsoft.QuantizeWithOrder",
    "com.microsoft.DequantizeWithOrder",
    kinds=(ROUNDS_ACTIVATIONS,),
)
operator(
    "com.microsoft.QLinearSigmoid",
    "com.microsoft.QLinearLeakyRelu",
    kinds=(
        ROUNDS_ACTIVATIONS,
        ACTIVATES,
    ),
    roles=Roles(alike=(0,)),
    axes="...->...",
)
operator(
    "com.microsoft.MatMulNBits",
    kinds=(
        SUMS_PRODUCTS,
        MULTIPLIES_MATRICES,
    ),
    roles=Roles(bias=5, alike=(0,)),
    axes=_n_bits_letters,
    shape=_n_bits_shape,
    rule=_n_bits_packed,
    operands=(0, 1),
    cost=_n_bits_cost,
)
operator("com.microsoft.MatMulBnb4", cost=_n_bits_cost)
