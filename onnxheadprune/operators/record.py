"""The record of an operator, made in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from onnxheadprune.liveness.answers import Rule
from onnxheadprune.liveness.index_notation import Axes, rule_in_letters, shape_in_letters, spelled
from onnxheadprune.liveness.layouts import FusedLayout, Mixture
from onnxheadprune.model.graph.elements import Elements
from onnxheadprune.model.graph.operator import NO_ROLES, OPERATORS, Choice, Kind, Operator, Roles, Shapes
from onnxheadprune.model.graph.view import Node

if TYPE_CHECKING:
    from onnxheadprune.edit.gradients import Decomposition, GradientFunction


def operator(
    *names: str,
    kinds: Iterable[Kind] = (),
    roles: Roles = NO_ROLES,
    axes: Axes | str | None = None,
    shape: Callable[[Node], Shapes] | None = None,
    rule: Rule | None = None,
    ragged: bool = False,
    repeats: bool = False,
    operands: tuple[int, ...] | None = None,
    inputs: Callable[[Node], Shapes] | None = None,
    elements: Callable[[Node], Elements | list[Elements | None] | None] | None = None,
    cost: Callable[[Node], int | None] | None = None,
    trips: Callable[[Node], int] | None = None,
    choice: Callable[[Node], Choice | None] | None = None,
    layout: Callable[[Node], FusedLayout | None] | None = None,
    mixture: Callable[[Node], Mixture | None] | None = None,
    gradient: GradientFunction | None = None,
    parts: Decomposition | None = None,
) -> None:
    """Make the record of an operator, or of several alike: all that is known of it, in one call.

    Args:
        names: with the domain in front, if that is not the standard one: "MatMul", "com.microsoft.QMoE".
        kinds: what it is, for code that asks `node in WEIGHS`.
        axes: the operator in index notation (`"bmk,bkn->bmn"`, or a function), from which shape and rule follow
            where they are not given.

    The others are attributes of `Operator`.

    Raises:
        ValueError: if an operator has a record already.
    """
    read = spelled(axes) if isinstance(axes, str) else axes
    if read is not None and rule is None:
        rule, ragged, repeats = partial(rule_in_letters, read), True, True
    if read is not None and shape is None:
        shape = partial(shape_in_letters, read)
    for name in names:
        if name in OPERATORS:
            raise ValueError(f"two records of {name}")
        for kind in kinds:
            kind.add(name)
        OPERATORS[name] = Operator(
            name=name,
            roles=roles,
            axes=read,
            shape=shape,
            rule=rule,
            ragged=ragged,
            repeats=repeats,
            operands=operands,
            inputs=inputs,
            elements=elements,
            cost=cost,
            trips=trips,
            choice=choice,
            layout=layout,
            mixture=mixture,
            gradient=gradient,
            parts=parts,
        )
