"""Contractions as an einsum: the letter of each axis of each operand.

MatMul, Gemm, Einsum, Conv and their quantized and fused forms all multiply two operands and sum over
shared letters. Liveness and site detection both ask only about letters, never about operator names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from onnxheadprune.model.graph.tables import Table
from onnxheadprune.model.graph.view import Node, Value

Letters = tuple[str | None, ...]


@dataclass(frozen=True)
class Contraction:
    """A product of two or more inputs of a node."""

    # per operand its input index and a letter per axis (None where a size of 1 is broadcast)
    terms: tuple[tuple[int, Letters], ...]
    out_axes: tuple[str, ...]  # a letter per axis of the first output
    # further one-dimensional inputs that run along the last operand's free letter
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


@dataclass(frozen=True)
class Product:
    """The product and sum that an operator computes."""

    # returns a node as a contraction, None where its shapes are unknown
    read: Callable[[Node], Contraction | None]
    # index of the input that the first input is multiplied with; None where all inputs are multiplied
    right: int | None


class Kernel(NamedTuple):
    """Inputs of a convolution, by index: its weight, and vectors along its output channels."""

    weight: int
    columns: tuple[int, ...]


PRODUCTS: Table[Product] = Table("products")
CONVOLUTIONS: Table[Kernel] = Table("convolutions")


def contraction_of(node: Node) -> Contraction | None:
    """The node as a contraction, None if it is none or its shapes are unknown."""
    product = PRODUCTS.of(node)
    return None if product is None else product.read(node)


def operand_indices(node: Node) -> tuple[int, ...]:
    """Input indices of a contraction's operands, even if its shapes are unknown; empty for other operators."""
    product = PRODUCTS.of(node)
    if product is None:
        return ()
    return tuple(range(len(node.inputs))) if product.right is None else (0, product.right)
