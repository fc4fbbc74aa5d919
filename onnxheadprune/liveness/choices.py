"""Choices: operators that output the numbers of the highest elements along an axis, as routers use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from onnxheadprune.model.graph.tables import Table
from onnxheadprune.model.graph.view import Node


@dataclass(frozen=True)
class Choice:
    """What an operator chooses of its first input; its last output has the numbers.

    Attributes:
        axis: along which elements are compared.
        count: how many are chosen, None where that is computed.
        highest: whether the highest are.
    """

    axis: int
    count: int | None
    highest: bool


Reader: TypeAlias = Callable[[Node], Choice | None]
CHOICES: Table[Reader] = Table("choices")


def choice_reader(*op_types: str) -> Callable[[Reader], Reader]:
    """Registers what reads the choice of an operator."""

    def register(function: Reader) -> Reader:
        CHOICES.add(op_types, "", function)
        return function

    return register


def choice_of(node: Node) -> Choice | None:
    """What a node chooses; None for any other node, and where shapes are missing."""
    reader = CHOICES.of(node)
    return None if reader is None else reader(node)
