"""Symbolic dimensions of graph inputs: what they are called, and one number for each.

Exporters write plain names ("batch"), sums ("past_sequence_length + 1"), sympy expressions
("Max(1, 2*s0)") or nothing at all. The same symbol always gets the same number.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
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
# Sympy writes Max where Python writes max.
_CALLS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "floor": math.floor,
    "ceiling": math.ceil,
    "mod": lambda a, b: a % b,
}


@dataclass(frozen=True)
class Expression:
    """A dimension that depends on symbols."""

    text: str  # as the model spells it
    symbols: tuple[str, ...]  # the names in it; the whole text where it is no arithmetic

    @property
    def is_symbol(self) -> bool:
        """True for a single name, without arithmetic."""
        return self.symbols == (self.text,)

    def evaluate(self, numbers: Mapping[str, int]) -> int:
        """The dimension for one number per symbol."""
        if self.is_symbol:
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
    """Names in an expression, in order of appearance."""
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Constant(value=int()):
            return ()
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return tuple(dict.fromkeys((*_names(left), *_names(right))))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _names(operand)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=[]) if function.lower() in _CALLS:
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
            return _CALLS[function.lower()](*(_evaluate(item, numbers) for item in args))
    raise ValueError(f"no arithmetic: {ast.dump(node)}")


@dataclass(frozen=True)
class Place:
    """One occurrence of a symbol in a graph input."""

    symbol: str
    input: str
    axis: int
    rank: int
    is_signal: bool
    is_mask: bool

    @property
    def in_cache(self) -> bool:
        """True if the input is a cache of keys or values."""
        return "past" in self.input.lower() and self.rank > 2


@dataclass(frozen=True)
class Roles:
    """The meanings of the symbols of a model's inputs; every symbol is in exactly one tuple."""

    batch: tuple[str, ...]  # number of samples
    past: tuple[str, ...]  # length of a cache
    total: tuple[str, ...]  # cache and sequence together (the width of a mask)
    length: tuple[str, ...]  # length of a sequence of tokens
    extent: tuple[str, ...]  # sides of an image, samples of audio: what convolutions may want large


@dataclass(frozen=True)
class Sizes:
    """Numbers to fill in, per role."""

    batch: int  # for every batch symbol
    past: int  # for lengths of a cache
    length: int  # for sequences; with `distinct`, the second symbol gets two more, and so on
    extent: int  # for images and audio, in the same way
    distinct: bool  # whether different symbols get different numbers


def numbers_for(found: Roles, sizes: Sizes, pinned: Mapping[str, int]) -> dict[str, int]:
    """One number per symbol; `pinned` ones are dictated by weights (channels of an image)."""
    numbers = dict.fromkeys(found.batch, sizes.batch) | dict.fromkeys(found.past, sizes.past)
    numbers |= dict.fromkeys(found.total, sizes.past + sizes.length)
    for names, size in ((found.length, sizes.length), (found.extent, sizes.extent)):
        for position, name in enumerate(name for name in names if name not in pinned):
            numbers[name] = size + 2 * position * sizes.distinct
    return numbers | dict(pinned)
