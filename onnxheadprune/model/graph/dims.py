"""Dimensions of values: integers, or polynomials in named symbols.

Reshapes are aligned by comparing products of dimensions, so `batch * 12` has to be a number one can
compute with, not an opaque string. A `Symbolic` is a polynomial with integer coefficients; what is
no polynomial (a floor division, say) becomes a symbol of its own whose name spells the expression,
so that equal expressions stay equal.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Monomial: TypeAlias = tuple[str, ...]


MAX_TERMS = 64
"""Of a polynomial, and of the longest quotient that is looked for."""
MAX_DEGREE = 32
MAX_NUMBER = 2**63
"""Larger numbers are no sizes. Squared a few dozen times in a row they would take gigabytes."""
MAX_NAME = 400
"""Letters of the name of an expression; a longer one is named by its digest."""
MAX_DIGITS = 9
"""Of a number in the name of a dimension."""


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


@functools.lru_cache(maxsize=1024)  # A model has thousands of values, and few names of dimensions.
def parsed_dim(name: str) -> Dim:
    """The polynomial that a declared name spells: torch.export writes `4*batch` for a batch of folded heads.

    Sums are left alone. Exporters also declare those that are not true in every branch of a merged decoder.
    """
    factors = [factor.strip() for factor in name.split("*")]
    numbers = [factor.isdecimal() and len(factor) <= MAX_DIGITS for factor in factors]
    known = all(number or factor.isidentifier() for number, factor in zip(numbers, factors, strict=True))
    if len(factors) < 2 or not known or all(numbers):
        return symbol(name)
    return product(
        int(factor) if number else symbol(factor) for number, factor in zip(numbers, factors, strict=True)
    )


def _terms(dim: Dim) -> dict[Monomial, int]:
    if isinstance(dim, Symbolic):
        return dict(dim.terms)
    return {(): dim} if dim else {}


def _from_terms(terms: dict[Monomial, int]) -> Dim:
    kept = {atoms: factor for atoms, factor in terms.items() if factor}
    if not kept:
        return 0
    if list(kept) == [()]:
        return _credible(kept[()])
    made = Symbolic(tuple(sorted(kept.items())))
    small = len(kept) <= MAX_TERMS and all(
        len(atoms) <= MAX_DEGREE and abs(factor) < MAX_NUMBER for atoms, factor in kept.items()
    )
    return made if small else _expression(str(made))


def _credible(number: int) -> Dim:
    """The number, or a symbol for one that nothing can have."""
    return number if abs(number) < MAX_NUMBER else _expression(str(number))


def _expression(text: str) -> Symbolic:
    """A symbol for what is no polynomial, or too long for one. Equal expressions have equal names."""
    if len(text) > MAX_NAME:
        sign = "-" if "-" in text else "+"
        text = f"{sign}{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return symbol(f"({text})")


def add(left: Dim, right: Dim) -> Dim:
    """`left + right`."""
    if isinstance(left, int) and isinstance(right, int):
        return _credible(left + right)
    terms = _terms(left)
    for atoms, factor in _terms(right).items():
        terms[atoms] = terms.get(atoms, 0) + factor
    return _from_terms(terms)


def multiply(left: Dim, right: Dim) -> Dim:
    """`left * right`."""
    if isinstance(left, int) and isinstance(right, int):
        return _credible(left * right)
    if left == 1:
        return right
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
    if isinstance(left, int) and isinstance(right, int):
        return None if left % right else left // right
    if right == 1:
        return left
    rest, divisor_terms = _terms(left), _terms(right)
    names = sorted({atom for terms in (rest, divisor_terms) for atoms in terms for atom in atoms})
    leading = max(divisor_terms, key=lambda atoms: _rank(atoms, names))
    found: dict[Monomial, int] = {}
    while rest:
        # Long division: the leading term of what is left has to be a multiple of the divisor's.
        top = max(rest, key=lambda atoms: _rank(atoms, names))
        atoms = _without(top, leading)
        if atoms is None or rest[top] % divisor_terms[leading] or len(found) > MAX_TERMS:
            return None
        factor = rest[top] // divisor_terms[leading]
        found[atoms] = factor
        rest = _terms(subtract(_from_terms(rest), multiply(_from_terms({atoms: factor}), right)))
    return _from_terms(found)


def _rank(atoms: Monomial, names: list[str]) -> tuple[int, ...]:
    """The graded lexicographic order of monomials."""
    return (len(atoms), *(atoms.count(name) for name in names))


def _without(atoms: Monomial, divisor_atoms: Monomial) -> Monomial | None:
    rest = list(atoms)
    for atom in divisor_atoms:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def never_negative(dim: Dim) -> bool:
    """Return whether a sum of products of dimensions has no part that could be below zero."""
    if isinstance(dim, int):
        return dim >= 0
    # A spelled quotient of a difference is the only symbol that is no dimension and may be negative.
    return all(
        factor > 0 and not any(atom.startswith("(") and "-" in atom for atom in atoms)
        for atoms, factor in dim.terms
    )


def floor_divide(left: Dim, right: Dim) -> Dim:
    """`left // right`; a symbol named after the expression where it is no polynomial.

    What is a multiple of the divisor comes out first, so that `(height - 8) // 8` is `height // 8 - 1`.

    >>> height = symbol("height")
    >>> floor_divide(add(floor_divide(height, 5), -2), 2) == add(floor_divide(height, 10), -1)
    True
    """
    if isinstance(left, int) and isinstance(right, int) and right:
        return left // right
    exact = divide(left, right)
    if exact is not None:
        return exact
    if isinstance(left, Symbolic) and isinstance(right, int) and right > 0:
        whole = _from_terms({atoms: factor // right for atoms, factor in left.terms})
        rest = _from_terms({atoms: factor % right for atoms, factor in left.terms})
        # A constant rest below the divisor never carries: (4*batch + 3) // 4 is batch.
        inner: Dim = 0 if isinstance(rest, int) else _joined_quotient(rest, right)
        return add(whole, inner)
    return _expression(f"{left})//({right}")


class _Quotient(str):
    """The name of a floor division by a number, which remembers what is divided, and by what."""

    dividend: Dim
    divisor: int


def _joined_quotient(dividend: Symbolic, by: int) -> Dim:
    """`dividend // by` as a symbol; with a quotient in it, one division: `(x // 5 + 1) // 2` is `(x + 5) // 10`.

    Two strides of convolutions, one after the other, give the same length as an exporter who multiplies them.
    """
    for atoms, factor in dividend.terms:
        (first, *others) = atoms or ("",)
        if factor == 1 and not others and isinstance(first, _Quotient):
            rest = subtract(dividend, Symbolic(((atoms, 1),)))
            return floor_divide(add(multiply(rest, first.divisor), first.dividend), first.divisor * by)
    named = _expression(f"{dividend})//({by}")
    (((name,), _),) = named.terms
    quotient_name = _Quotient(name)
    quotient_name.dividend, quotient_name.divisor = dividend, by
    return symbol(quotient_name)


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


def known_size(shape: Shape | None, axis: int) -> int | None:
    """The size of an axis, None where there is no such axis or its size is no number."""
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    dim = shape[axis]
    return dim if isinstance(dim, int) else None


def size_of(shape: Shape | None) -> int | None:
    """The number of elements, None where a dimension is open."""
    if shape is None:
        return None
    sizes = [dim for dim in shape if isinstance(dim, int)]
    return math.prod(sizes) if len(sizes) == len(shape) else None


def evaluated(dim: Dim, sizes: Mapping[str, int], unknown: int | None = None) -> int | None:
    """Return the size of a dimension, given those of symbols; None where it has one without a size."""
    if isinstance(dim, int):
        return dim
    if unknown is None:
        if any(name not in sizes for names, _ in dim.terms for name in names):
            return None
        unknown = 0
    return sum(factor * math.prod(sizes.get(name, unknown) for name in names) for names, factor in dim.terms)


def simplicity(dim: Dim) -> tuple[bool, bool, int, str]:
    """A key that sorts dimensions from the simplest on: numbers, names of the model, names that inference made up."""
    name = str(dim)
    return (isinstance(dim, Symbolic), is_unnamed(dim), len(name), name)


def is_unnamed(dim: Dim) -> bool:
    """Return whether inference made up the name of a dimension, so that the model does not say what it counts."""
    return isinstance(dim, Symbolic) and any(
        "unk__" in atom or "." in atom for atoms, _ in dim.terms for atom in atoms
    )


def broadcast_dim(left: Dim, right: Dim) -> Dim:
    """The broadcast of two dimensions.

    Two different symbols cannot be told apart from a broadcast of 1 at run time, unless one is a multiple of a
    number above 1 (heads times batch); the one that the model itself names is preferred to one that inference made
    up, then the shorter expression.
    """
    if left == 1 or left == right:
        return right
    if right == 1 or isinstance(left, int):
        return left
    if isinstance(right, int):
        return right
    several = [dim for dim in (left, right) if divisor(dim) > 1]
    return several[0] if len(several) == 1 else min(left, right, key=simplicity)


def broadcast(shapes: Sequence[Shape | None]) -> Shape | None:
    """Numpy's broadcast of all `shapes`."""
    result: Shape = ()
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(result), len(shape))
        left = (1,) * (rank - len(result)) + result
        right = (1,) * (rank - len(shape)) + shape
        result = tuple(broadcast_dim(a, b) for a, b in zip(left, right, strict=True))
    return result
