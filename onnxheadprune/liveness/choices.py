"""Choices: operators that output the numbers of the highest elements along an axis, as routers use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from onnxheadprune.model.graph.tables import Table
from onnxheadprune.model.graph.view import Node


@dataclass(frozen=True)
class Choice:
    """The elements that an operator chooses of its first input; its last output has their numbers.

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


choice_reader = CHOICES.register


def choice_of(node: Node) -> Choice | None:
    """The choice that a node makes; None for any other node, and where shapes are missing."""
    reader = CHOICES.of(node)
    return None if reader is None else reader(node)
