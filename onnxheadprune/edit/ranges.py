"""Sets of numbers as text: "0-511,600". A feed-forward block has thousands of neurons."""

from __future__ import annotations

from collections.abc import Iterable


def spelled(numbers: Iterable[int]) -> str:
    """Numbers in order, runs of them as ranges.

    >>> spelled([3, 0, 1, 2, 7])
    '0-3,7'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read_ranges(text: str, most: int) -> tuple[int, ...]:
    """The numbers that `spelled` wrote.

    Args:
        text: the ranges; nothing for none.
        most: the largest number that is credible.

    Raises:
        ValueError: if it is not what `spelled` writes, or names a larger number.
    """
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        start, stop = _number(first), _number(last if dash else first)
        if start is None or stop is None or not start <= stop <= most or (found and start <= found[-1]):
            raise ValueError(f"{part[:40]!r} is no range of numbers up to {most} behind those before it")
        found += range(start, stop + 1)
    return tuple(found)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
