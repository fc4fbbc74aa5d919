"""Operators by what is known of them, as pairs of domain and name."""

from __future__ import annotations

from collections.abc import Callable

from onnxheadprune import operators
from onnxheadprune.model.graph.operator import OPERATORS, Operator

assert operators


def key_of(name: str) -> tuple[str, str]:
    """The domain and the name of an operator."""
    domain, _, op_type = name.rpartition(".")
    return domain, op_type


def keys_with(known: Callable[[Operator], object]) -> list[tuple[str, str]]:
    """Operators of which something is known, sorted."""
    return sorted(key_of(name) for name, record in OPERATORS.items() if known(record))


RULES = keys_with(lambda record: record.rule)
