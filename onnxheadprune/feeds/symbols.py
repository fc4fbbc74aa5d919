"""Symbolic dimensions of graph inputs: what they are called, and one number for each.

Exporters write plain names ("batch"), sums ("past_sequence_length + 1"), sympy expressions
("Max(1, 2*s0)") or nothing at all. The same symbol always gets the same number.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

SymbolicDim: TypeAlias = "int | Expression"
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: Fraction(a) / Fraction(b),
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "Max": max,
    "Min": min,
    "floor": math.floor,
    "ceiling": math.ceil,
    "Mod": lambda a, b: a % b,
}


@dataclass(frozen=True)
class Expression:
    """A dimension that depends on symbols.

    Attributes:
        text: as the model spells it.
        symbols: the names in it; the whole text where it is no arithmetic.
    """

    text: str
    symbols: tuple[str, ...]

    def evaluate(self, numbers: Mapping[str, int]) -> int:
        """The dimension for one number per symbol.

        Raises:
            ZeroDivisionError: if it divides by zero for these numbers.
        """
        if self.symbols == (self.text,):
            return numbers[self.text]
        return int(_evaluate(ast.parse(self.text, mode="eval").body, numbers))


def read_dim(text: str) -> Expression:
    """A `dim_param` as an expression."""
    try:
        body = ast.parse(text.strip(), mode="eval").body
        names = _names(body)
    except (SyntaxError, ValueError):
        return Expression(text, (text,))
    return Expression(text.strip(), names) if names else Expression(text, (text,))


def _names(node: ast.expr) -> tuple[str, ...]:
    """Names in an expression, in order of appearance.

    Raises:
        ValueError: if it is more than arithmetic.
    """
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Constant(value=int()):
            return ()
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return tuple(dict.fromkeys((*_names(left), *_names(right))))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _names(operand)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=[]) if function in _CALLS:
            return tuple(dict.fromkeys(name for item in args for name in _names(item)))
    raise ValueError("not arithmetic")


def _evaluate(node: ast.expr, numbers: Mapping[str, int]) -> Any:
    match node:
        case ast.Name(id=name):
            return numbers[name]
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluate(left, numbers), _evaluate(right, numbers))
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, numbers)
        case ast.Call(func=ast.Name(id=function), args=args):
            return _CALLS[function](*(_evaluate(item, numbers) for item in args))
    raise ValueError(f"no arithmetic: {ast.dump(node)}")


@dataclass(frozen=True)
class Roles:
    """What the symbols of a model's inputs stand for; every symbol is in exactly one tuple."""

    batch: tuple[str, ...]
    past: tuple[str, ...]
    total: tuple[str, ...]
    length: tuple[str, ...]


def roles(places: Iterable[tuple[str, int, int]]) -> Roles:
    """Sorts symbols by name and by where they stand.

    Args:
        places: `(symbol, axis, rank)` of every occurrence in a graph input.
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for name, axis, rank in places:
        seen.setdefault(name, []).append((axis, rank))
    past = [name for name in seen if "past" in name.lower() and "batch" not in name.lower()]
    total = [name for name in seen if "total" in name.lower() and name not in past] if past else []
    batch = [
        name
        for name, where in seen.items()
        if name not in (*past, *total)
        and ("batch" in name.lower() or all(axis == 0 and rank > 1 for axis, rank in where))
    ]
    taken = {*past, *total, *batch}
    return Roles(tuple(batch), tuple(past), tuple(total), tuple(name for name in seen if name not in taken))


def numbers_for(
    found: Roles, batch: int, length: int, past: int, *, distinct: bool, pinned: Mapping[str, int]
) -> dict[str, int]:
    """One number per symbol.

    Args:
        found: the roles of the symbols.
        batch: for every batch symbol.
        length: for length symbols; with `distinct`, the second is two larger, and so on.
        past: for lengths of a cache.
        distinct: whether different length symbols get different numbers.
        pinned: symbols whose number the weights dictate (channels of an image).
    """
    numbers = dict.fromkeys(found.batch, batch) | dict.fromkeys(found.past, past)
    numbers |= dict.fromkeys(found.total, past + length)
    for position, name in enumerate(name for name in found.length if name not in pinned):
        numbers[name] = length + 2 * position * distinct
    return numbers | dict(pinned)
