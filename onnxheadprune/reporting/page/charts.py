"""Geometry of the two charts: where a template draws lines, dots and ticks. Nothing here knows what is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE_SPAN = 12
"""Times that the largest value may be the smallest one on a linear axis."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in pixels, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high` over pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value, with a decimal."""
        low, high, here = (self._of(number) for number in (self.low, self.high, value))
        return round(self.start + (here - low) / (high - low or 1.0) * (self.end - self.start), 1)

    def _of(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value

    def ticks(self, most: int = 5) -> list[Tick]:
        """Round numbers along the axis, `most` or a few fewer or more."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            powers = [10.0**power for power in range(first, last + 1)]
            factors = (1, 2, 5) if last - first < most else (1,)
            numbers = [factor * power for power in powers for factor in factors]
            return [Tick(self.at(item), f"{item:g}") for item in numbers if self.low <= item <= self.high]
        step = _round_step((self.high - self.low) / max(most, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [Tick(self.at(index * step), f"{index * step:.6g}") for index in range(first, last + 1)]


def scale_over(values: Sequence[float], start: float, end: float, *, zero: bool = True) -> Scale:
    """An axis that holds all values with a little room."""
    low, high = (0.0 if zero else min(values)), max(values)
    if high <= low:
        low, high = (low, low + 1.0) if zero else (high - (abs(high) / 10 or 1.0), high)
    room = 0.06 * (high - low)
    return Scale(low if zero else low - room, high + room, start, end)


def scale_of_times(values: Sequence[float], start: float, end: float) -> Scale:
    """An axis for positive numbers: from zero, or logarithmic where the small ones would vanish."""
    if min(values) > 0 and max(values) > WIDE_SPAN * min(values):
        return Scale(min(values) / 1.3, max(values) * 1.3, start, end, logarithmic=True)
    return scale_over(values, start, end)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
