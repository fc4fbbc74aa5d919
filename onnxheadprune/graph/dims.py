"""Dimensions of values: integers, or polynomials in named symbols.

Reshapes are aligned by comparing products of dimensions, so `batch * 12` has to be a number one can
compute with, not an opaque string. A `Symbolic` is a polynomial with integer coefficients; what is
no polynomial (a floor division, say) becomes a symbol of its own whose name spells the expression,
so that equal expressions stay equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Monomial: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A polynomial: sorted `(monomial, coefficient)` pairs, no zero coefficients, not a constant."""

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        return " + ".join(
            "*".join(([str(factor)] if factor != 1 or not atoms else []) + list(atoms))
            for atoms, factor in self.terms
        )


Dim: TypeAlias = int | Symbolic
Shape: TypeAlias = tuple[Dim, ...]


def symbol(name: str) -> Symbolic:
    """A dimension known only by name."""
    return Symbolic((((name,), 1),))


def _terms(dim: Dim) -> dict[Monomial, int]:
    if isinstance(dim, Symbolic):
        return dict(dim.terms)
    return {(): dim} if dim else {}


def _from_terms(terms: dict[Monomial, int]) -> Dim:
    kept = {atoms: factor for atoms, factor in terms.items() if factor}
    if not kept:
        return 0
    if list(kept) == [()]:
        return kept[()]
    return Symbolic(tuple(sorted(kept.items())))


def add(left: Dim, right: Dim) -> Dim:
    """`left + right`."""
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    terms = _terms(left)
    for atoms, factor in _terms(right).items():
        terms[atoms] = terms.get(atoms, 0) + factor
    return _from_terms(terms)


def multiply(left: Dim, right: Dim) -> Dim:
    """`left * right`."""
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    terms: dict[Monomial, int] = {}
    for left_atoms, left_factor in _terms(left).items():
        for right_atoms, right_factor in _terms(right).items():
            atoms = tuple(sorted(left_atoms + right_atoms))
            terms[atoms] = terms.get(atoms, 0) + left_factor * right_factor
    return _from_terms(terms)


def subtract(left: Dim, right: Dim) -> Dim:
    """`left - right`."""
    return add(left, multiply(-1, right))


def divide(left: Dim, right: Dim) -> Dim | None:
    """`left / right` where that is exact as a polynomial, else None."""
    if right == 0:
        return None
    if left == right:
        return 1
    divisor = _terms(right)
    if len(divisor) != 1:
        return None
    (atoms, factor), *_ = divisor.items()
    quotient: dict[Monomial, int] = {}
    for own_atoms, own_factor in _terms(left).items():
        rest = list(own_atoms)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if own_factor % factor:
            return None
        quotient[tuple(rest)] = own_factor // factor
    return _from_terms(quotient)


def floor_divide(left: Dim, right: Dim) -> Dim:
    """`left // right`; a symbol named after the expression where it is no polynomial."""
    if isinstance(left, int) and isinstance(right, int) and right:
        return left // right
    if isinstance(left, Symbolic) and isinstance(right, int) and right > 0:
        # (4*batch + 3) // 4 is batch: a constant rest below the divisor never carries.
        rest = dict(left.terms).get((), 0) % right
        left = subtract(left, rest)
    exact = divide(left, right)
    return exact if exact is not None else symbol(f"({left})//({right})")


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all `dims` (1 for none)."""
    total: Dim = 1
    for dim in dims:
        total = multiply(total, dim)
    return total


def quotient(numerator: Iterable[Dim], denominator: Iterable[Dim]) -> Dim | None:
    """Product of `numerator` over product of `denominator`, cancelling equal dimensions first."""
    above = list(numerator)
    below: list[Dim] = []
    for dim in denominator:
        if dim in above:
            above.remove(dim)
        else:
            below.append(dim)
    result: Dim | None = product(above)
    for dim in below:
        result = None if result is None else divide(result, dim)
    return result


def divisor(dim: Dim) -> int:
    """The largest integer that surely divides `dim` (the dimension itself if it is an integer)."""
    if isinstance(dim, int):
        return dim
    return math.gcd(*(factor for _, factor in dim.terms))
