"""Equality of outputs: errors relative to their scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.generate import Outputs, in_pieces, is_finite


@dataclass(frozen=True)
class Gap:
    """The distance of an array from the one it should equal."""

    absolute: float
    relative: float


def _gap(actual: Array, expected: Array) -> Gap:
    """The largest difference where `expected` is finite; infinite if shapes differ or `actual` is not finite."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return Gap(math.inf, math.inf)
    if expected.dtype.kind in "OSU":
        same = bool(np.array_equal(actual, expected))
        return Gap(0.0, 0.0) if same else Gap(math.inf, math.inf)
    pairs = [_largest(*parts) for parts in zip(in_pieces(actual), in_pieces(expected), strict=True)]
    absolute, scale = (max(found) for found in zip((0.0, 0.0), *pairs, strict=True))
    if scale:
        return Gap(absolute, absolute / scale)
    # There is no scale to go by: nothing but equality will do.
    return Gap(absolute, math.inf if absolute else 0.0)


def _largest(actual: Array, expected: Array) -> tuple[float, float]:
    """The largest difference and the scale, where `expected` is finite; a difference that is no number is infinite."""
    left, right = numbers(actual), numbers(expected)
    finite = np.isfinite(right)
    if not finite.all():
        left, right = left[finite], right[finite]
    if not right.size:
        return 0.0, 0.0
    absolute = float(np.abs(left - right).max())
    return math.inf if math.isnan(absolute) else absolute, float(np.abs(right).max())


def numbers(array: Array) -> Array:
    """Floats wide enough to subtract in."""
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float64 if array.dtype.kind in "biu" else np.float32)


def worst(actual: Outputs, expected: Outputs, names: tuple[str, ...]) -> tuple[str, Gap]:
    """The output with the largest relative error, and that error."""
    gaps = {name: _gap(actual[name], expected[name]) for name in names}
    name = max(gaps, key=lambda item: gaps[item].relative)
    return name, gaps[name]


def comparable(reference: Outputs, original: Outputs) -> bool:
    """Return whether numbers can be compared: there are some, and NaN and infinities do not hang on the heads.

    Tokens that are ruled out have minus infinity, and rows that attend to nothing are no numbers, whoever attends.
    """
    if _all_finite(reference) and _all_finite(original):
        return True
    floats = [(value, original[name]) for name, value in reference.items() if not _is_exact(value)]
    return any(np.isfinite(numbers(part)).any() for value, _ in floats for part in in_pieces(value)) and all(
        value.shape == other.shape
        and all(
            np.array_equal(_not_finite(left), _not_finite(right), equal_nan=True)
            for left, right in zip(in_pieces(value), in_pieces(other), strict=True)
        )
        for value, other in floats
    )


def stray(actual: Outputs, expected: Outputs, names: tuple[str, ...]) -> str | None:
    """The first output with another infinity than expected, None without. Where NaN is expected, anything may be."""
    for name in names:
        left, right = actual[name], expected[name]
        if _is_exact(right) or left.shape != right.shape:
            continue
        if not all(map(_equal_infinities, in_pieces(left), in_pieces(right))):
            return name
    return None


def _equal_infinities(actual: Array, expected: Array) -> bool:
    infinite = np.isinf(numbers(expected))
    return np.array_equal(numbers(actual)[infinite], numbers(expected)[infinite])


def has_nan(outputs: Outputs) -> bool:
    """Return whether some output holds what is no number."""
    floats = (value for value in outputs.values() if not _is_exact(value))
    return any(np.isnan(numbers(part)).any() for value in floats for part in in_pieces(value))


def _is_exact(array: Array) -> bool:
    """Return whether an array can hold neither NaN nor an infinity."""
    return array.dtype.kind in "biuOSU"


def _not_finite(array: Array) -> Array:
    """The array with all numbers alike."""
    wide = numbers(array)
    return np.where(np.isfinite(wide), 0, wide)


def _all_finite(outputs: Outputs) -> bool:
    """Return whether no output holds NaN or an infinity."""
    return all(is_finite(value) for value in outputs.values())
