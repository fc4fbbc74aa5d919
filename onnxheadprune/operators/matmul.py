"""Matrix products and Einsum: a live batch letter narrows both operands, a free letter the operand that has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from onnx import TensorProto

from onnxheadprune.liveness.axes import broadcast_back
from onnxheadprune.liveness.contraction import PRODUCTS, Contraction, Letters, Product, contraction_of
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal, coupled, inexpressible, unknown_shape
from onnxheadprune.liveness.registry import Answer, rule
from onnxheadprune.model.graph.dims import Dim, Shape, Symbolic, broadcast, broadcast_dim
from onnxheadprune.model.graph.facts import (
    ACTIVATES_PRODUCTS,
    MULTIPLIES_FLOATS,
    MULTIPLIES_MATRICES,
    ROUNDS_ACTIVATIONS,
    SUMS_INTEGERS,
    SUMS_PRODUCTS,
)
from onnxheadprune.model.graph.tables import (
    Roles,
    Shapes,
    cost_function,
    declare,
    input_shape_function,
    shape_function,
)
from onnxheadprune.model.graph.view import Node

declare(
    "MatMulInteger",
    kinds=(SUMS_PRODUCTS, SUMS_INTEGERS, MULTIPLIES_MATRICES),
    roles=Roles(zero_points={0: 2, 1: 3}, weight_zero=3, integer_weight=1),
)
declare(
    "QLinearMatMul",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(
        zero_points={0: 2, 3: 5},
        scales=(1, 4),
        weight_scale=4,
        weight_zero=5,
        integer_weight=3,
        output_scale=6,
        output_zero=7,
    ),
)
declare(
    "QGemm",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS, MULTIPLIES_MATRICES),
    roles=Roles(
        alike=(8,),
        types={0: int(TensorProto.FLOAT)},
        zero_points={0: 2},
        scales=(1, 4),
        weight_scale=4,
        weight_zero=5,
        integer_weight=3,
        output_scale=7,
        output_zero=8,
        integer_bias=6,
    ),
)
declare(
    "DynamicQuantizeMatMul",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS, SUMS_PRODUCTS, MULTIPLIES_MATRICES),
    roles=Roles(bias=4, alike=(2, 0), weight_scale=2, weight_zero=3, integer_weight=1),
)
declare(
    "MatMulIntegerToFloat",
    domain="com.microsoft",
    kinds=(SUMS_PRODUCTS, MULTIPLIES_MATRICES),
    roles=Roles(
        bias=6, alike=(2, 3, 6), zero_points={0: 4, 1: 5}, weight_scale=3, weight_zero=5, integer_weight=1
    ),
)
declare("Gemm", kinds=(SUMS_PRODUCTS, MULTIPLIES_MATRICES), roles=Roles(bias=2))
declare(
    "FusedMatMul",
    "TransposeMatMul",
    domain="com.microsoft",
    kinds=(SUMS_PRODUCTS, MULTIPLIES_MATRICES, MULTIPLIES_FLOATS),
    roles=Roles(alike=(0, 1)),
)
declare(
    "FusedMatMulActivation", domain="com.microsoft", kinds=(ACTIVATES_PRODUCTS,), roles=Roles(alike=(0, 1))
)
declare(
    "FusedGemm",
    domain="com.microsoft",
    kinds=(MULTIPLIES_MATRICES, ACTIVATES_PRODUCTS),
    roles=Roles(alike=(0, 1, 2)),
)
declare("MatMul", kinds=(SUMS_PRODUCTS, MULTIPLIES_MATRICES, MULTIPLIES_FLOATS))
declare("QOrderedMatMul", domain="com.microsoft", kinds=(ROUNDS_ACTIVATIONS,))

MICROSOFT = (
    "FusedMatMul",
    "TransposeMatMul",
    "FusedMatMulActivation",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
)
"""Relatives of MatMul in ONNX Runtime, with transposes, an activation or quantization folded in."""


@input_shape_function("MatMul", "MatMulInteger")
def _matmul_operands(node: Node) -> Shapes:
    """Columns of the left operand are rows of the right one."""
    left, right = node.shape(0), node.shape(1)
    if not left or not right:
        return [None, None]
    return _as_summed(left, right, len(left) - 1, max(0, len(right) - 2))


@input_shape_function("Gemm")
def _gemm_operands(node: Node) -> Shapes:
    left, right = node.shape(0), node.shape(1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None, None]
    return _as_summed(left, right, 0 if node.attribute("transA", 0) else 1, node.attribute("transB", 0))


def _as_summed(left: Shape, right: Shape, left_axis: int, right_axis: int) -> Shapes:
    """The shapes of two operands whose given axes are summed over together: a known size tells the other.

    >>> from onnxheadprune.model.graph.dims import symbol
    >>> print(*_as_summed((2, symbol("width")), (8, 3), 1, 0))
    (2, 8) (8, 3)
    """
    known = next((dim for dim in (left[left_axis], right[right_axis]) if isinstance(dim, int)), None)
    if known is None:
        return [None, None]
    return [
        (*shape[:axis], known, *shape[axis + 1 :]) if isinstance(shape[axis], Symbolic) else shape
        for shape, axis in ((left, left_axis), (right, right_axis))
    ]


@shape_function("MatMul", "MatMulInteger")
def _matmul_shape(node: Node) -> Shapes:
    left, right = node.shape(0), node.shape(1)
    if left is None or right is None or not left or not right:
        return [None]
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    batch = broadcast([left[:-2], right[:-2]])
    return [None if batch is None else (*batch, *rows, *columns)]


@shape_function("Gemm")
@shape_function("FusedGemm", "QGemm", domain="com.microsoft")
def _gemm_shape(node: Node) -> Shapes:
    left, right = node.shape(0), node.shape(3 if node.op_type == "QGemm" else 1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None]
    rows = left[1] if node.attribute("transA", 0) else left[0]
    return [(rows, right[0] if node.attribute("transB", 0) else right[1])]


@shape_function("QLinearMatMul")
@shape_function(*MICROSOFT, domain="com.microsoft")
def _fused_shape(node: Node) -> Shapes:
    left, right = node.shape(0), node.shape(3 if node.op_type == "QLinearMatMul" else 1)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return [None]
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        left = (*left[1:-1], left[0], left[-1]) if node.attribute("transBatchA", 0) else left
        right = (*right[1:-1], right[0], right[-1]) if node.attribute("transBatchB", 0) else right
    if node.attribute("transA", 0):
        left = (*left[:-2], left[-1], left[-2])
    if node.attribute("transB", 0):
        right = (*right[:-2], right[-1], right[-2])
    batch = broadcast([left[:-2], right[:-2]])
    return [None if batch is None else (*batch, left[-2], right[-1])]


@cost_function("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "Einsum")
@cost_function(*MICROSOFT, "FusedGemm", "QGemm", "GemmFastGelu", domain="com.microsoft")
def _product_cost(node: Node) -> int | None:
    """2 x the product of all letters of the index notation (MatMul, Gemm, Einsum and their relatives)."""
    found = contraction_of(node)
    if found is None:
        return None
    sizes: dict[object, int] = {}
    for index in found.indices:
        shape = node.shape(index)
        if shape is None:
            return None
        for letter, size in zip(found.axes_of(index), shape, strict=False):
            if not isinstance(size, int):
                return None
            sizes[letter] = max(size, sizes.get(letter, 1))
    return 2 * math.prod(sizes.values())


@rule("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "Einsum", ragged=True, runs=True)
def _contraction(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The summed letter never appears in the output, so it stays whole in both operands."""
    found = contraction_of(node)
    if found is None:
        return unknown_shape(node)
    if not lives[0].is_product and not _follows(lives[0], found):
        return inexpressible(node)
    inputs = {index: _operand(lives[0], found, axes) for index, axes in found.terms}
    inputs |= _columns(node, lives[0], found)
    if node.op_type in ("Gemm", "FusedGemm"):
        bias = _gemm_bias(node, lives[0])
        if bias is None:
            return inexpressible(node)
        inputs[2] = bias
    return Answer(inputs)


@rule(*MICROSOFT, "FusedGemm", "QGemm", domain="com.microsoft", ragged=True, runs=True)
def _fused_contraction(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """ONNX Runtime's variants with transposes, a scale or quantization folded in."""
    answer = _contraction(node, lives)
    if node.op_type == "DynamicQuantizeMatMul" and isinstance(answer, Answer) and answer.inputs[0].axes:
        # The range of the activation is taken over all its rows together.
        return coupled(node)
    return answer


def _follows(live: Live, found: Contraction) -> bool:
    """Return whether operands can follow a mask that is no product: each has its first axes, in their order.

    Shared keys `[B, K, 1, T, D]` are one per group, whichever of its queries are left.
    """
    if not live.is_mask:
        return True
    letters = [found.out_axes[axis] for axis in live.axes]
    for _, axes in found.terms:
        mine = [letter for letter in axes if letter in letters]
        if mine != letters[: len(mine)]:
            return False
    return not found.columns


def _operand(live: Live, found: Contraction, axes: Letters) -> Live:
    letter_at = dict(enumerate(found.out_axes))
    carried = {axis: axes.index(letter_at[axis]) for axis in live.axes if letter_at[axis] in axes}
    projected = live.only(carried)
    return projected.renumbered({axis: carried[axis] for axis in projected.axes})


def _columns(node: Node, live: Live, found: Contraction) -> dict[int, Live]:
    """Scales, zero points and biases with one entry per column of the last operand."""
    answers: dict[int, Live] = {}
    last = found.indices[-1]
    columns = [axis for axis in live.axes if found.owners(found.out_axes[axis]) == (last,)]
    for index in found.columns:
        shape = node.shape(index)
        if shape and shape[-1] != 1 and len(columns) == 1:
            projected = live.only(columns)
            answers[index] = projected.renumbered({axis: len(shape) - 1 for axis in projected.axes})
    return answers


def _gemm_bias(node: Node, live: Live) -> Live | None:
    shape, out_shape = node.shape(2), node.out.shape
    if node.input(2) is None:
        return FULL
    if shape is None or out_shape is None:
        return None
    return broadcast_back(live, shape, out_shape)


def _rotate_batch(letters: list[str | None]) -> None:
    """`transBatchA/B` of FusedMatMul: the operand is stored as [M, batch..., K] in place of [batch..., M, K]."""
    letters.insert(0, letters.pop(-2))


def _matmul_letters(node: Node, right_index: int, columns: tuple[int, ...]) -> Contraction | None:
    left, right, out = node.shape(0), node.shape(right_index), node.out.shape
    if left is None or right is None or len(left) < 1 or len(right) < 1:
        return None
    # MatMul has none of these; asked for one by one they would cost more than all the rest.
    turned = {item.name for item in node.proto.attribute if item.i}
    rows: list[str | None] = ["m"] if len(left) > 1 else []
    columns_letter: list[str | None] = ["n"] if len(right) > 1 else []
    left_batch, right_batch = left[:-2], right[:-2]
    if "transBatchA" in turned:
        left_batch = left[1:-1]
    if "transBatchB" in turned:
        right_batch = right[1:-1]
    rank = max(len(left_batch), len(right_batch))
    left_axes = _batch_letters(left_batch, right_batch, rank) + rows + ["k"]
    right_axes = [*_batch_letters(right_batch, left_batch, rank), "k", *columns_letter]
    out_letters = tuple([f"b{i}" for i in range(rank)] + [str(c) for c in rows + columns_letter])
    if "transA" in turned and len(left) > 1:
        left_axes[-2:] = left_axes[:-3:-1]
    if "transB" in turned and len(right) > 1:
        right_axes[-2:] = right_axes[:-3:-1]
    if "transBatchA" in turned:
        _rotate_batch(left_axes)
    if "transBatchB" in turned:
        _rotate_batch(right_axes)
    if out is not None and len(out) != len(out_letters):
        return None
    return Contraction(((0, tuple(left_axes)), (right_index, tuple(right_axes))), out_letters, columns)


def _batch_letters(own: Shape, other: Shape, rank: int) -> list[str | None]:
    letters: list[str | None] = []
    for axis, dim in enumerate(own):
        letter = axis + rank - len(own)
        mirrored = letter - (rank - len(other))
        broadcast = dim == 1 and mirrored >= 0 and other[mirrored] != 1
        letters.append(None if broadcast else f"b{letter}")
    return letters


def _gemm_letters(node: Node, right_index: int, columns: tuple[int, ...]) -> Contraction | None:
    left = ("k", "m") if node.attribute("transA", 0) else ("m", "k")
    right = ("n", "k") if node.attribute("transB", 0) else ("k", "n")
    return Contraction(((0, left), (right_index, right)), ("m", "n"), columns)


for _op_type, _domain, _right, _vectors in (
    ("MatMul", "", 1, ()),
    ("MatMulInteger", "", 1, (3,)),
    ("QLinearMatMul", "", 3, (4, 5)),
    ("FusedMatMul", "com.microsoft", 1, ()),
    ("TransposeMatMul", "com.microsoft", 1, ()),
    ("FusedMatMulActivation", "com.microsoft", 1, ()),
    ("DynamicQuantizeMatMul", "com.microsoft", 1, (2, 3, 4)),
    ("MatMulIntegerToFloat", "com.microsoft", 1, (3, 5, 6)),
):
    _read = partial(_matmul_letters, right_index=_right, columns=_vectors)
    PRODUCTS.add((_op_type,), _domain, Product(_read, _right))
for _op_type, _domain, _right, _vectors in (
    ("Gemm", "", 1, ()),
    ("FusedGemm", "com.microsoft", 1, ()),
    ("QGemm", "com.microsoft", 3, (4, 5, 6)),
):
    _read = partial(_gemm_letters, right_index=_right, columns=_vectors)
    PRODUCTS.add((_op_type,), _domain, Product(_read, _right))


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


def _einsum_letters(node: Node) -> Contraction | None:
    terms = einsum_terms(node)
    if terms is None or any(len(set(term)) != len(term) for term in terms):
        return None
    *inputs, out = terms
    return Contraction(tuple((index, tuple(term)) for index, term in enumerate(inputs)), tuple(out))


PRODUCTS.add(("Einsum",), "", Product(_einsum_letters, None))


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
