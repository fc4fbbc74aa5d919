"""Contractions seen as an einsum: which axis of which operand is which letter.

MatMul, Gemm, Einsum, Conv and their quantized and fused forms all multiply two operands and sum over
shared letters. Liveness and site detection both ask only about letters, never about operator names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.equations import einsum_terms
from onnxheadprune.model.graph.view import Node, Value

Letters = tuple[str | None, ...]


@dataclass(frozen=True)
class Contraction:
    """A product of two or more inputs of a node.

    Attributes:
        terms: per operand its input index and a letter per axis (None where a size of 1 is broadcast).
        out_axes: a letter per axis of the first output.
        columns: further one-dimensional inputs that run along the last operand's free letter.
    """

    terms: tuple[tuple[int, Letters], ...]
    out_axes: tuple[str, ...]
    columns: tuple[int, ...] = ()

    @property
    def indices(self) -> tuple[int, ...]:
        """Input indices of the operands."""
        return tuple(index for index, _ in self.terms)

    def axes_of(self, index: int) -> Letters:
        """The letters of the operand at an input index."""
        return dict(self.terms)[index]

    def owners(self, letter: str) -> tuple[int, ...]:
        """Input indices of the operands that have a letter."""
        return tuple(index for index, axes in self.terms if letter in axes)

    @property
    def batch(self) -> frozenset[str]:
        """Output letters that several operands share."""
        return frozenset(letter for letter in self.out_axes if len(self.owners(letter)) > 1)

    @property
    def contracted(self) -> frozenset[str]:
        """Letters that are summed over and that several operands share."""
        letters = {letter for _, axes in self.terms for letter in axes if letter is not None}
        return frozenset(letter for letter in letters - set(self.out_axes) if len(self.owners(letter)) > 1)


def operands(node: Node, contraction: Contraction) -> tuple[Value, ...]:
    """The operands as values."""
    return tuple(value for index in contraction.indices if (value := node.inputs[index]) is not None)


def contraction_of(node: Node) -> Contraction | None:
    """The node as a contraction, None if it is none or its shapes are unknown."""
    key = (node.domain, node.op_type)
    if key in _MATMULS:
        right, columns = _MATMULS[key]
        return _matmul(node, right, columns)
    if key in _GEMMS:
        return _gemm(node, *_GEMMS[key])
    if key == ("", "Einsum"):
        return _einsum(node)
    if key == ("com.microsoft", "MatMulNBits"):
        return _packed(node)
    if key in CONVOLUTIONS:
        return _conv(node)
    return None


def operand_indices(node: Node) -> tuple[int, ...]:
    """Input indices of what a contraction multiplies, even if its shapes are unknown; empty for other operators."""
    key = (node.domain, node.op_type)
    if key == ("", "Einsum"):
        return tuple(range(len(node.inputs)))
    if key == ("com.microsoft", "MatMulNBits"):
        return (0, 1)
    right = _MATMULS.get(key) or _GEMMS.get(key) or CONVOLUTIONS.get(key)
    return () if right is None else (0, right[0])


_MATMULS: dict[tuple[str, str], tuple[int, tuple[int, ...]]] = {
    ("", "MatMul"): (1, ()),
    ("", "MatMulInteger"): (1, (3,)),
    ("", "QLinearMatMul"): (3, (4, 5)),
    ("com.microsoft", "FusedMatMul"): (1, ()),
    ("com.microsoft", "TransposeMatMul"): (1, ()),
    ("com.microsoft", "FusedMatMulActivation"): (1, ()),
    ("com.microsoft", "DynamicQuantizeMatMul"): (1, (2, 3, 4)),
    ("com.microsoft", "MatMulIntegerToFloat"): (1, (3, 5, 6)),
}
_GEMMS: dict[tuple[str, str], tuple[int, tuple[int, ...]]] = {
    ("", "Gemm"): (1, ()),
    ("com.microsoft", "FusedGemm"): (1, ()),
    ("com.microsoft", "QGemm"): (3, (4, 5, 6)),
}
CONVOLUTIONS: dict[tuple[str, str], tuple[int, tuple[int, ...]]] = {
    ("", "Conv"): (1, (2,)),
    ("com.microsoft", "FusedConv"): (1, (2,)),
    ("", "ConvInteger"): (1, (3,)),
    ("", "QLinearConv"): (3, (4, 5, 8)),
    ("", "ConvTranspose"): (1, (2,)),
}
"""Per convolution the input index of the weight, and those of vectors along its output channels."""


def _swap(letters: list[str | None]) -> None:
    letters[-1], letters[-2] = letters[-2], letters[-1]


def _rotate_batch(letters: list[str | None]) -> None:
    """`transBatchA/B` of FusedMatMul: the operand is stored as [M, batch..., K] in place of [batch..., M, K]."""
    letters.insert(0, letters.pop(-2))


def _matmul(node: Node, right_index: int, columns: tuple[int, ...]) -> Contraction | None:
    left, right, out = node.shape(0), node.shape(right_index), node.out.shape
    if left is None or right is None or len(left) < 1 or len(right) < 1:
        return None
    swapped_batch = (node.attribute("transBatchA", 0), node.attribute("transBatchB", 0))
    rows: list[str | None] = ["m"] if len(left) > 1 else []
    columns_letter: list[str | None] = ["n"] if len(right) > 1 else []
    left_batch, right_batch = left[:-2], right[:-2]
    if swapped_batch[0]:
        left_batch = left[1:-1]
    if swapped_batch[1]:
        right_batch = right[1:-1]
    rank = max(len(left_batch), len(right_batch))
    left_axes = _batch_letters(left_batch, right_batch, rank) + rows + ["k"]
    right_axes = [*_batch_letters(right_batch, left_batch, rank), "k", *columns_letter]
    out_letters = tuple([f"b{i}" for i in range(rank)] + [str(c) for c in rows + columns_letter])
    if node.attribute("transA", 0) and len(left) > 1:
        _swap(left_axes)
    if node.attribute("transB", 0) and len(right) > 1:
        _swap(right_axes)
    if swapped_batch[0]:
        _rotate_batch(left_axes)
    if swapped_batch[1]:
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


def _gemm(node: Node, right_index: int, columns: tuple[int, ...]) -> Contraction | None:
    left = ("k", "m") if node.attribute("transA", 0) else ("m", "k")
    right = ("n", "k") if node.attribute("transB", 0) else ("k", "n")
    return Contraction(((0, left), (right_index, right)), ("m", "n"), columns)


def _packed(node: Node) -> Contraction | None:
    """A weight in blocks, `[N, K / block, bytes]`; its summed axis counts blocks (see `blocks.py`)."""
    left = node.shape(0)
    if left is None:
        return None
    batch = tuple(f"b{axis}" for axis in range(len(left) - 1))
    return Contraction(((0, (*batch, "k")), (1, ("n", "k", None))), (*batch, "n"))


def _einsum(node: Node) -> Contraction | None:
    terms = einsum_terms(node)
    if terms is None or any(len(set(term)) != len(term) for term in terms):
        return None
    *inputs, out = terms
    return Contraction(tuple((index, tuple(term)) for index, term in enumerate(inputs)), tuple(out))


def _conv(node: Node) -> Contraction | None:
    index, columns = CONVOLUTIONS[(node.domain, node.op_type)]
    data, weight = node.shape(0), node.shape(index)
    if data is None or weight is None or node.attribute("group", 1) != 1:
        return None
    spatial = range(len(data) - 2)
    pointwise = is_pointwise(node)
    left: list[str | None] = ["n", "k", *(f"s{i}" if pointwise else f"in{i}" for i in spatial)]
    rows = ("k", "m") if node.op_type == "ConvTranspose" else ("m", "k")
    right: list[str | None] = [*rows, *(None for _ in spatial)]
    out = ["n", "m", *(f"s{i}" if pointwise else f"out{i}" for i in spatial)]
    return Contraction(((0, tuple(left)), (index, tuple(right))), tuple(out), columns)


def is_pointwise(node: Node) -> bool:
    """Whether a convolution has kernel 1, stride 1 and no padding."""
    weight = node.shape(CONVOLUTIONS[(node.domain, node.op_type)][0])
    ones: Sequence[int] = node.attribute("strides", [1])
    pads: Sequence[int] = node.attribute("pads", [0])
    same = node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    return (
        weight is not None
        and all(size == 1 for size in weight[2:])
        and all(step == 1 for step in ones)
        and not any(pads)
        and not any(node.attribute("output_padding", [0]))
        and node.attribute("output_shape") is None
        and same
    )
