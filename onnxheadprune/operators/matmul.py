"""Matrix products and Einsum: a live batch letter narrows both operands, a free letter the operand that has it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from onnx import TensorProto

from onnxheadprune.liveness.index_notation import (
    Axes,
    Letters,
    Notation,
    contraction_of,
    operand_indices,
    shape_in_letters,
    summed_sizes,
    with_letters,
)
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.operator import (
    ACTIVATES_PRODUCTS,
    MULTIPLIES_FLOATS,
    MULTIPLIES_MATRICES,
    NO_ROLES,
    ROUNDS_ACTIVATIONS,
    SUMS_INTEGERS,
    SUMS_PRODUCTS,
    Kind,
    Roles,
)
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.record import operator


def _matmul(node: Node, columns: tuple[int, ...] = ()) -> Notation | None:
    """MatMul and its relatives, with transposes, an activation or quantization folded in.

    Args:
        columns: scales, zero points and biases with one entry per column of the second operand.
    """
    first, second = operand_indices(node)
    left, right = node.shape(first), node.shape(second)
    if not left or not right:
        return None
    # MatMul has none of these; asked for one by one they would cost more than all the rest.
    turned = frozenset(item.name for item in node.proto.attribute if item.i)
    left_axes, right_axes, out = _letters(left, right, turned)
    return Notation(((first, left_axes), (second, right_axes)), out, _along_columns(node, columns))


@lru_cache(maxsize=1024)  # A model has many products of few shapes, and each is asked dozens of times.
def _letters(left: Shape, right: Shape, turned: frozenset[str]) -> tuple[Letters, Letters, tuple[str, ...]]:
    """Letters of the operands' axes and of the output's."""
    left_batch = left[1:-1] if "transBatchA" in turned else left[:-2]
    right_batch = right[1:-1] if "transBatchB" in turned else right[:-2]
    rank = max(len(left_batch), len(right_batch))
    rows, free_letter = ["m"] if len(left) > 1 else [], ["n"] if len(right) > 1 else []
    left_axes = [*_batch_letters(left_batch, right_batch, rank), *rows, "k"]
    right_axes = [*_batch_letters(right_batch, left_batch, rank), "k", *free_letter]
    for name, axes in (("A", left_axes), ("B", right_axes)):
        if f"trans{name}" in turned and len(axes) > 1:
            axes[-2:] = axes[:-3:-1]
        if f"transBatch{name}" in turned:
            axes.insert(0, axes.pop(-2))  # [M, batch..., K] in place of [batch..., M, K]
    out = (*(f"b{axis}" for axis in range(rank)), *rows, *free_letter)
    return tuple(left_axes), tuple(right_axes), out


def _batch_letters(own: Shape, other: Shape, rank: int) -> list[str | None]:
    letters: list[str | None] = []
    for axis, dim in enumerate(own):
        letter = axis + rank - len(own)
        mirrored = letter - (rank - len(other))
        broadcast = dim == 1 and mirrored >= 0 and other[mirrored] != 1
        letters.append(None if broadcast else f"b{letter}")
    return letters


def _along_columns(node: Node, columns: Iterable[int]) -> tuple[tuple[int, Letters], ...]:
    """Vectors along the columns, or a number for all."""
    given = [(index, node.shape(index) or ()) for index in columns if node.input(index) is not None]
    return tuple((index, (*(None for _ in shape[1:]), *("n" for _ in shape[:1]))) for index, shape in given)


def _gemm(node: Node, columns: tuple[int, ...] = ()) -> Notation:
    first, second = operand_indices(node)
    left = ("k", "m") if node.attribute("transA", 0) else ("m", "k")
    right = ("n", "k") if node.attribute("transB", 0) else ("k", "n")
    return Notation(((first, left), (second, right)), ("m", "n"), _along_columns(node, columns))


def _gemm_with_bias(node: Node) -> Notation:
    """The bias is broadcast to the output."""
    bias = ("m", "n")[-len(node.shape(2) or ()) :] if node.shape(2) else ()
    return replace(_gemm(node), others=((2, bias),))


def _measured(node: Node) -> Notation | None:
    """The range of the activation is taken over all its rows together."""
    found = _matmul(node, (2, 3, 4))
    return None if found is None else replace(found, mixed=frozenset(found.out_axes) - {"n"})


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


def _einsum(node: Node) -> Notation | None:
    """None where a letter is there twice, as for a diagonal."""
    found = _with_diagonals(node)
    diagonal = found is None or any(len(set(letters)) != len(letters) for _, letters in found.terms)
    return None if diagonal else found


def _with_diagonals(node: Node) -> Notation | None:
    terms = einsum_terms(node)
    if terms is None:
        return None
    *inputs, out = terms
    return Notation(tuple((index, tuple(term)) for index, term in enumerate(inputs)), tuple(out))


def einsum_terms(node: Node) -> list[str] | None:
    """Letters per operand and, last, of the output; an ellipsis is spelled with capital letters."""
    equation = str(node.attribute("equation", "")).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(node.inputs):
        return None
    if not arrow:
        joined = "".join(terms).replace("...", "")
        output = "..." + "".join(sorted(letter for letter in set(joined) if joined.count(letter) == 1))
    return with_letters([*terms, output], [node.shape(index) for index in range(len(terms))])


def _product(
    name: str, kinds: tuple[Kind, ...], axes: Axes, right: int = 1, roles: Roles = NO_ROLES, **more: Any
) -> None:
    operator(name, kinds=kinds, roles=roles, axes=axes, operands=(0, right), cost=_product_cost, **more)


_product("MatMul", (SUMS_PRODUCTS, MULTIPLIES_MATRICES, MULTIPLIES_FLOATS), _matmul, inputs=summed_sizes)
_product(
    "Gemm", (SUMS_PRODUCTS, MULTIPLIES_MATRICES), _gemm_with_bias, roles=Roles(bias=2), inputs=summed_sizes
)
for _name in ("FusedMatMul", "TransposeMatMul"):
    _product(
        f"com.microsoft.{_name}",
        (SUMS_PRODUCTS, MULTIPLIES_MATRICES, MULTIPLIES_FLOATS),
        _matmul,
        roles=Roles(alike=(0, 1)),
    )
_product("com.microsoft.FusedMatMulActivation", (ACTIVATES_PRODUCTS,), _matmul, roles=Roles(alike=(0, 1)))
_product(
    "com.microsoft.FusedGemm",
    (MULTIPLIES_MATRICES, ACTIVATES_PRODUCTS),
    _gemm_with_bias,
    roles=Roles(alike=(0, 1, 2)),
)
_product(
    "MatMulInteger",
    (SUMS_PRODUCTS, SUMS_INTEGERS, MULTIPLIES_MATRICES),
    partial(_matmul, columns=(3,)),
    roles=Roles(zero_points={0: 2, 1: 3}, weight_zero=3, integer_weight=1),
    inputs=summed_sizes,
)
_product(
    "com.microsoft.MatMulIntegerToFloat",
    (SUMS_PRODUCTS, MULTIPLIES_MATRICES),
    partial(_matmul, columns=(3, 5, 6)),
    roles=Roles(
        bias=6, alike=(2, 3, 6), zero_points={0: 4, 1: 5}, weight_scale=3, weight_zero=5, integer_weight=1
    ),
)
_product(
    "com.microsoft.DynamicQuantizeMatMul",
    (ROUNDS_ACTIVATIONS, SUMS_PRODUCTS, MULTIPLIES_MATRICES),
    _measured,
    roles=Roles(bias=4, alike=(2, 0), weight_scale=2, weight_zero=3, integer_weight=1),
)
_product(
    "QLinearMatMul",
    (ROUNDS_ACTIVATIONS,),
    partial(_matmul, columns=(4, 5)),
    right=3,
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
_product(
    "com.microsoft.QGemm",
    (ROUNDS_ACTIVATIONS, MULTIPLIES_MATRICES),
    partial(_gemm, columns=(4, 5, 6)),
    right=3,
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
operator("com.microsoft.QOrderedMatMul", kinds=(ROUNDS_ACTIVATIONS,))
operator("com.microsoft.GemmFastGelu", cost=_product_cost)
operator(
    "Einsum",
    kinds=(SUMS_PRODUCTS, MULTIPLIES_FLOATS),
    axes=_einsum,
    shape=partial(shape_in_letters, _with_diagonals),
    operands=(),
    cost=_product_cost,
)
