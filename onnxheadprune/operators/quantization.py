"""Quantization: scales, zero points and packed blocks of MatMulNBits follow the axis they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import TensorProto

from onnxheadprune.edit.edits import DropInputs, Edit, SetAttribute
from onnxheadprune.liveness.axes import broadcast_back
from onnxheadprune.liveness.contraction import PRODUCTS, Contraction, Product, contraction_of
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.packed_blocks import cut_columns
from onnxheadprune.liveness.refusals import Refusal, coupled, inexpressible, unknown_shape
from onnxheadprune.liveness.registry import Answer, mixing, rule
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, broadcast
from onnxheadprune.model.graph.facts import (
    ACTIVATES,
    ADDS_QUANTIZED,
    DEQUANTIZES,
    MEASURES_SCALE,
    MULTIPLIES_MATRICES,
    MULTIPLIES_QUANTIZED,
    PACKS_BLOCKS,
    QUANTIZES,
    ROUNDS_ACTIVATIONS,
    SUMS_PRODUCTS,
    WEIGHS,
)
from onnxheadprune.model.graph.tables import Roles, Shapes, cost_function, declare, shape_function, size_of
from onnxheadprune.model.graph.view import Node

declare("QuantizeLinear", kinds=(QUANTIZES,), roles=Roles(contents=(0,), output_zero=2))
declare(
    "QuantizeLinear",
    domain="com.microsoft",
    kinds=(QUANTIZES,),
    roles=Roles(contents=(0,), alike=(2,), types={0: int(TensorProto.UINT8)}, output_zero=2),
)
declare("DynamicQuantizeLinear", kinds=(MEASURES_SCALE, ROUNDS_ACTIVATIONS))
declare(
    "QLinearAdd",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS, ADDS_QUANTIZED),
    roles=Roles(alike=(0,), zero_points={0: 2, 3: 5}, output_zero=7),
)
declare(
    "QLinearMul",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS, MULTIPLIES_QUANTIZED),
    roles=Roles(alike=(0,), zero_points={0: 2, 3: 5}, output_zero=7),
)
declare(
    "QLinearConcat",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(alike=(1, 2), output_zero=1),
)
declare(
    "QLinearWhere",
    "QLinearReduceMean",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "QOrderedGelu",
    "QOrderedLayerNormalization",
    "QuantizeWithOrder",
    "DequantizeWithOrder",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS,),
)
declare(
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS, ACTIVATES),
    roles=Roles(alike=(0,)),
)
declare("QLinearSoftmax", domain="com.microsoft", kinds=(ROUNDS_ACTIVATIONS, WEIGHS), roles=Roles(alike=(0,)))
declare("DequantizeLinear", kinds=(DEQUANTIZES,), roles=Roles(contents=(0,), zero_points={0: 2}))
declare(
    "DequantizeLinear",
    domain="com.microsoft",
    kinds=(DEQUANTIZES,),
    roles=Roles(contents=(0,), alike=(1,), zero_points={0: 2}),
)


@shape_function("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
@shape_function(
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    "QLinearSoftmax",
    domain="com.microsoft",
)
def _same_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@shape_function("QLinearAdd", "QLinearMul", domain="com.microsoft")
def _binary_shape(node: Node) -> Shapes:
    return [broadcast([node.shape(0), node.shape(3)])]


@shape_function("QLinearConcat", domain="com.microsoft")
def _concat_shape(node: Node) -> Shapes:
    shapes = [node.shape(index) for index in range(2, len(node.inputs), 3)]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known:
        return [None]
    axis = node.attribute("axis", 0) % len(known[0])
    total: Dim = 0
    for shape in known:
        total = dims.add(total, shape[axis])
    return [(*known[0][:axis], total, *known[0][axis + 1 :])]


@rule("QuantizeLinear", "DequantizeLinear")
def _linear(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Per tensor: nothing follows. Per axis: one scale per index. Blocked: only whole blocks could go."""
    shape, scale = node.shape(0), node.shape(1)
    if shape is None or scale is None:
        return unknown_shape(node)
    live = lives[0]
    if len(scale) == 0 or (len(scale) == 1 and scale[0] == 1):
        return Answer({0: live})
    if len(scale) == 1:
        axis = node.attribute("axis", 1) % len(shape)
        along = live.only([axis])
        vector = along.renumbered(dict.fromkeys(along.axes, 0))
        return Answer({0: live, 1: vector, 2: vector})
    block, axis = node.attribute("block_size", 0), node.attribute("axis", 1) % len(shape)
    if not block or axis in live.axes:
        return inexpressible(node)
    return Answer({0: live, 1: live, 2: live})


@rule("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def _microsoft_linear(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The same operators in ONNX Runtime's domain."""
    return _linear(node, lives)


@rule("DynamicQuantizeLinear")
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


@rule("QLinearAdd", "QLinearMul", domain="com.microsoft")
def _quantized_binary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Two operands with their scales: `A, As, Az, B, Bs, Bz, Cs, Cz`."""
    inputs: dict[int, Live] = {}
    for index in (0, 3):
        shape, out_shape = node.shape(index), node.out.shape
        back = None if shape is None or out_shape is None else broadcast_back(lives[0], shape, out_shape)
        if back is None:
            return unknown_shape(node)
        inputs[index] = back
    return Answer(inputs)


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain="com.microsoft")
def _quantized_unary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """One operand with its scales."""
    return Answer({0: lives[0]})


@rule("QLinearSoftmax", domain="com.microsoft")
def _quantized_softmax(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Softmax over one axis, or over all axes from it on for the old opset."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", -1) % len(shape)
    mixed = {axis} if node.attribute("opset", 13) >= 13 else set(range(axis, len(shape)))
    return mixing(node, lives[0], mixed)


@rule("QLinearConcat", domain="com.microsoft")
def _quantized_concat(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Triples `X, scale, zero point` after the output's own scale and zero point."""
    live, shape = lives[0], node.out.shape
    if shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(shape)
    inputs: dict[int, Live] = {}
    start = 0
    for index in range(2, len(node.inputs), 3):
        piece, size = live, (node.shape(index) or (None,) * len(shape))[axis]
        if axis in live.axes:
            if not isinstance(size, int):
                return unknown_shape(node)
            piece = Live.over(
                live.axes, live.array.take(range(start, start + size), axis=live.axes.index(axis))
            )
            start += size
        inputs[index] = piece
    if not live.is_product:
        return inexpressible(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        dead = [index for index, piece in inputs.items() if piece.is_dead]
        return [DropInputs(node.ref, tuple(i + k for i in dead for k in range(3)))] if dead else []

    return Answer(inputs, rewrite)


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


def _n_bits_letters(node: Node) -> Contraction | None:
    """A weight in blocks, `[N, K / block, bytes]`; its summed axis counts blocks (see `packed_blocks.py`)."""
    left = node.shape(0)
    if left is None:
        return None
    batch = tuple(f"b{axis}" for axis in range(len(left) - 1))
    return Contraction(((0, (*batch, "k")), (1, ("n", "k", None))), (*batch, "n"))


PRODUCTS.add(("MatMulNBits",), "com.microsoft", Product(_n_bits_letters, 1))
