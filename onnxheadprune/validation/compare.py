"""Comparing outputs: errors relative to their scale, drift, accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.data.drift import counted, counted_pieces, pieces
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.generate import Feed, Outputs, in_pieces, is_finite, rows_of
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.feeds.samples import IGNORED_LABEL
from onnxheadprune.validation.result import Accuracy, Drift


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
    rows = [item.reshape(-1, 1) for item in (actual, expected)]
    pairs = [_largest(*(item[part] for item in rows)) for part in pieces(rows[0].shape)]
    absolute, scale = (max(numbers) for numbers in zip(*pairs, strict=True))
    if scale:
        return Gap(absolute, absolute / scale)
    # There is no scale to go by: nothing but equality will do.
    return Gap(absolute, math.inf if absolute else 0.0)


def _largest(actual: Array, expected: Array) -> tuple[float, float]:
    """The largest difference and the scale, where `expected` is finite; a difference that is no number is infinite."""
    left, right = _numbers(actual), _numbers(expected)
    finite = np.isfinite(right)
    if not finite.all():
        left, right = left[finite], right[finite]
    if not right.size:
        return 0.0, 0.0
    absolute = float(np.abs(left - right).max())
    return math.inf if math.isnan(absolute) else absolute, float(np.abs(right).max())


def _numbers(array: Array) -> Array:
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
    return any(np.isfinite(_numbers(part)).any() for value, _ in floats for part in in_pieces(value)) and all(
        value.shape == other.shape
        and all(
            np.array_equal(_strange(left), _strange(right), equal_nan=True)
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
    infinite = np.isinf(_numbers(expected))
    return np.array_equal(_numbers(actual)[infinite], _numbers(expected)[infinite])


def has_nan(outputs: Outputs) -> bool:
    """Return whether some output holds what is no number."""
    floats = (value for value in outputs.values() if not _is_exact(value))
    return any(np.isnan(_numbers(part)).any() for value in floats for part in in_pieces(value))


def _is_exact(array: Array) -> bool:
    """Return whether an array can hold neither NaN nor an infinity."""
    return array.dtype.kind in "biuOSU"


def _strange(array: Array) -> Array:
    """The array with all numbers alike."""
    numbers = _numbers(array)
    return np.where(np.isfinite(numbers), 0, numbers)


def _all_finite(outputs: Outputs) -> bool:
    """Return whether no output holds NaN or an infinity."""
    return all(is_finite(value) for value in outputs.values())


class DriftMeter:
    """Adds up how far the pruned model's main output lies from the original's.

    Padding does not count, nor do positions where the original is not finite.
    """

    def __init__(self, source: str, main: MainOutput, inputs: Sequence[Input]) -> None:
        self.source, self.output, self.is_logits = source, main.name, main.is_logits
        self._inputs = inputs
        self._largest = self._scale = self._total = self._cosines = 0.0
        self._count = self._vectors = self._agreeing = self._samples = 0

    def add(self, original: Array, pruned: Array, feed: Feed) -> None:
        """Count one pair of outputs of equal shape [..., features]."""
        before, after = (np.atleast_2d(item) for item in (original, pruned))
        self._samples += rows_of(feed, self._inputs)
        parts = counted_pieces(before, feed, self._inputs)
        before, after = (item.reshape(-1, item.shape[-1]) for item in (before, after))
        for part in parts:
            self._add(_numbers(before[part]), _numbers(after[part]))

    def _add(self, before: Array, after: Array) -> None:
        agreeing = before.argmax(axis=1) == after.argmax(axis=1)
        # Tokens that both rule out by minus infinity are equal, and no direction.
        out = np.isneginf(before) & np.isneginf(after)
        before, after = np.where(out, 0, before), np.where(out, 0, after)
        rows = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        before, after, agreeing = before[rows], after[rows], agreeing[rows]
        if not before.size:
            return
        difference = np.abs(after - before)
        self._largest = max(self._largest, float(difference.max()))
        self._scale = max(self._scale, float(np.abs(before).max()))
        self._total += float(difference.sum(dtype=np.float64))
        self._count += difference.size
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        dots = np.einsum("ij,ij->i", before, after)
        self._cosines += float(np.where(norms > 0, dots / np.where(norms > 0, norms, 1), 1).sum())
        self._vectors += len(before)
        self._agreeing += int(agreeing.sum())

    def result(self) -> Drift | None:
        """The drift so far, None before anything was counted."""
        if not self._count:
            return None
        scale = self._scale or 1.0
        agreement = self._agreeing / self._vectors if self.is_logits else None
        return Drift(
            self.source,
            self.output,
            self._largest / scale,
            self._total / self._count / scale,
            self._cosines / self._vectors,
            agreement,
            samples=self._samples,
        )


class AccuracyMeter:
    """Counts how often the largest entry of the main output is the label; padding does not count."""

    def __init__(self, output: str, inputs: Sequence[Input]) -> None:
        self.output, self._inputs = output, inputs
        self.obstacle: str | None = None
        self._count = self._original = self._pruned = 0

    def add(self, labels: Array, original: Array, pruned: Array, feed: Feed) -> None:
        """Count one batch: labels [...], outputs [..., classes]. Ignored labels (-100) do not count."""
        if labels.dtype.kind not in "iu" or labels.size != math.prod(original.shape[:-1]):
            self.obstacle = (
                f"labels of type {labels.dtype.name} and shape {list(labels.shape)} do not fit output"
                f" {self.output} {list(original.shape)}, so there is no accuracy"
            )
            return
        flat = labels.reshape(original.shape[:-1])
        known = flat != IGNORED_LABEL
        mask = counted(flat.shape, feed, self._inputs)
        known = known if mask is None else known & mask
        strange = flat[known & ((flat < 0) | (flat >= original.shape[-1]))]
        if strange.size:
            self.obstacle = (
                f"the label {strange[0]} is no class of output {self.output} {list(original.shape)}, so there is no"
                f" accuracy; write {IGNORED_LABEL} for labels that do not count"
            )
            return
        self._count += int(known.sum())
        self._original += int((original.argmax(axis=-1) == flat)[known].sum())
        self._pruned += int((pruned.argmax(axis=-1) == flat)[known].sum())

    def result(self) -> Accuracy | None:
        """The accuracy so far, None if no label was counted."""
        if not self._count or self.obstacle is not None:
            return None
        return Accuracy(self.output, self._count, self._original / self._count, self._pruned / self._count)
