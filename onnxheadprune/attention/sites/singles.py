"""Sets of one number, each held once: the blocks of a model with 7 billion weights have a million of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache

MOST = 2**17


@lru_cache(MOST)
def _alone(number: int) -> tuple[int]:
    return (number,)


@lru_cache(MOST)
def _single(number: int) -> frozenset[int]:
    return frozenset(_alone(number))


def in_order(numbers: Collection[int]) -> tuple[int, ...]:
    """Return the numbers of a set in order."""
    return _alone(next(iter(numbers))) if len(numbers) == 1 else tuple(sorted(numbers))


def as_set(numbers: Collection[int]) -> frozenset[int]:
    """Return a set of numbers."""
    return _single(next(iter(numbers))) if len(numbers) == 1 else frozenset(numbers)


def each(numbers: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Return a set for each number."""
    return tuple(map(_alone, numbers))
