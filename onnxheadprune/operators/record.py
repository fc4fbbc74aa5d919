"""The record of an operator, made in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypedDict, Unpack

from onnxheadprune.liveness.answers import Rule
from onnxheadprune.liveness.index_notation import Axes, rule_in_letters, shape_in_letters, spelled
from onnxheadprune.liveness.layouts import FusedLayout, Mixture
from onnxheadprune.model.graph.elements import Elements
from onnxheadprune.model.graph.operator import OPERATORS, Choice, Kind, Operator, Roles, Shapes
from onnxheadprune.model.graph.view import Node

if TYPE_CHECKING:
    from onnxheadprune.edit.gradients import Decomposition, GradientFunction


class Known(TypedDict, total=False):
    """The keywords of `operator` that set the attribute of `Operator` with the same name, which documents it."""

    roles: Roles
    shape: Callable[[Node], Shapes] | None
    rule: Rule | None
    ragged: bool
    repeats: bool
    operands: tuple[int, ...] | None
    inputs: Callable[[Node], Shapes] | None
    elements: Callable[[Node], Elements | list[Elements | None] | None] | None
    cost: Callable[[Node], int | None] | None
    trips: Callable[[Node], int] | None
    choice: Callable[[Node], Choice | None] | None
    layout: Callable[[Node], FusedLayout | None] | None
    mixture: Callable[[Node], Mixture | None] | None
    gradient: GradientFunction | None
    parts: Decomposition | None


def operator(
    *names: str, kinds: Iterable[Kind] = (), axes: Axes | str | None = None, **known: Unpack[Known]
) -> None:
    """Make the record of an operator, or of several alike: all that is known of it, in one call.

    Args:
        names: with the domain in front, if that is not the standard one: "MatMul", "com.microsoft.QMoE".
        kinds: what it is, for code that asks `node in WEIGHS`.
        axes: the operator in index notation (`"bmk,bkn->bmn"`, or a function), from which shape and rule follow
            where they are not given.

    Raises:
        ValueError: if an operator has a record already.
    """
    read = spelled(axes) if isinstance(axes, str) else axes
    if read is not None and known.get("rule") is None:
        known |= {"rule": partial(rule_in_letters, read), "ragged": True, "repeats": True}
    if read is not None and known.get("shape") is None:
        known["shape"] = partial(shape_in_letters, read)
    for name in names:
        if name in OPERATORS:
            raise ValueError(f"two records of {name}")
        for kind in kinds:
            kind.add(name)
        OPERATORS[name] = Operator(name, axes=read, **known)
