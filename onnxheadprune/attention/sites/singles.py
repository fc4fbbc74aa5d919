"""Sets of numbers, each held once: the blocks of a model with 7 billion weights have a million of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

MOST, MOST_LISTS = 2**17, 2**4


@lru_cache(MOST)
def _single(number: int) -> frozenset[int]:
    return frozenset((number,))


def as_set(numbers: Collection[int]) -> frozenset[int]:
    """Return a set of numbers."""
    return _single(next(iter(numbers))) if len(numbers) == 1 else frozenset(numbers)


@lru_cache(MOST_LISTS)
def once(sets: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Return equal sets that were given before instead: blocks of one model are divided alike."""
    return sets
