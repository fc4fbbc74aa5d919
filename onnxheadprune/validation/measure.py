"""Drift, accuracy and the user's own measure of two models, collected over the same inputs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from onnxheadprune.data.drift import EffectMeter, Measure, counted, counted_pieces
from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.data import IGNORED_LABEL, RANDOM_INPUTS, USERS_DATA
from onnxheadprune.runtime.feeds.generate import Feed, Outputs, rows_of
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.foreign import import_function, users_code
from onnxheadprune.validation.compare import numbers
from onnxheadprune.validation.figures import Accuracy, Drift, MetricResult

Metric: TypeAlias = "str | Callable[..., Any]"


WHOLE = ("feeds", "dataset")
"""Names of the second parameter that ask for all feeds at once."""


def load_metric(metric: Metric) -> tuple[str, Callable[..., Any]]:
    """Name and function of a metric.

    Args:
        metric: a function, or "module:function"; the module may lie in the working directory.
    """
    if callable(metric):
        name, function = getattr(metric, "__name__", "metric"), metric
    else:
        name, function = metric, _imported(metric)
    if len(_parameters(function)) != 2:
        raise UsageError(f"the metric {name} must take two arguments, (outputs, feed) or (outputs, feeds)")
    return name, function


def _imported(spec: str) -> Callable[..., Any]:
    if not spec.rpartition(":")[0]:
        raise UsageError(f"a metric is given as module:function, not {spec!r}")
    return import_function(spec, "the metric")


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ["outputs", "feed"]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [item.name for item in found if item.kind in positional and item.default is item.empty]


class MetricMeter:
    """Collects a metric over feeds.

    A function `(outputs, feed)` is called per feed and gives one number, or one per sample; the result is the mean over
    samples. A function `(outputs, feeds)` is called once with the lists of all feeds: for what is no mean, as F1.
    Both get NumPy arrays by name; a feed also holds the data's `labels`.
    """

    def __init__(self, metric: Metric) -> None:
        self.name, self._function = load_metric(metric)
        self._whole = _parameters(self._function)[1] in WHOLE
        self._feeds: list[Mapping[str, Any]] = []
        self._outputs: tuple[list[Outputs], list[Outputs]] = ([], [])
        self._sums = [0.0, 0.0]
        self._samples = 0

    def add(self, feed: Feed, samples: int, labels: Array | None, original: Outputs, pruned: Outputs) -> None:
        """Add one batch, with its number of samples."""
        given = dict(feed) if labels is None else {**feed, "labels": labels}
        self._samples += samples
        if self._whole:
            self._feeds.append(given)
            for kept, outputs in zip(self._outputs, (original, pruned), strict=True):
                kept.append(dict(outputs))
            return
        for side, outputs in enumerate((original, pruned)):
            self._sums[side] += samples * self._value(dict(outputs), given)

    def result(self) -> MetricResult | None:
        """The metric so far, None before any feed."""
        if not self._samples:
            return None
        if self._whole:
            before, after = (self._value(outputs, self._feeds) for outputs in self._outputs)
        else:
            before, after = (total / self._samples for total in self._sums)
        return MetricResult(self.name, self._samples, before, after)

    def _value(self, outputs: object, feeds: object) -> float:
        with users_code(f"the metric {self.name}"):
            found = float(np.mean(np.asarray(self._function(outputs, feeds), dtype=np.float64)))
        if not math.isfinite(found):
            raise UsageError(f"the metric {self.name} gave {found}, which is no number to compare")
        return found


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
            self._add(numbers(before[part]), numbers(after[part]))

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
            **vars(RANDOM_INPUTS if self.source == "random" else USERS_DATA),
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


@dataclass(frozen=True)
class Measured:
    """The distance of one model from another."""

    drift: Drift | None  # None where nothing was counted
    value: float  # the drift as one number, mean over the feeds; NaN where nothing was counted
    unit: str  # of that number
    accuracy: Accuracy | None  # None without labels, or where they do not fit
    metric: MetricResult | None  # None where the user gave none
    notes: tuple[str, ...] = ()


class Meter:
    """Measures a model against another one on the outputs of both, feed by feed."""

    def __init__(
        self,
        source: str,
        main: MainOutput | None,
        inputs: Sequence[Input],
        effect: Measure | None = None,
        metric: MetricMeter | None = None,
    ) -> None:
        """Start with no feeds.

        Args:
            source: "random" or "data".
            main: the output that is compared, None where no output is the main one.
            effect: the measure of drift; see `EffectMeter`.
        """
        self._inputs, self._main, self._metric = inputs, main, metric
        self._hits: AccuracyMeter | None = None
        self._drift = None if main is None else DriftMeter(source, main, inputs)
        self._effect = None if main is None else EffectMeter(main, inputs, effect)

    def add(self, feed: Feed, labels: Array | None, before: Outputs, after: Outputs) -> None:
        """Add the outputs for one feed."""
        if self._metric is not None:
            self._metric.add(feed, rows_of(feed, self._inputs), labels, before, after)
        if self._main is None or self._main.name not in after:
            return
        name = self._main.name
        if before[name].shape != after[name].shape:
            return
        if labels is not None:
            self._hits = self._hits or AccuracyMeter(name, self._inputs)
            self._hits.add(labels, before[name], after[name], feed)
        if self._drift is not None and self._effect is not None:
            self._drift.add(before[name], after[name], feed)
            self._effect.add(before, after, feed)

    def result(self) -> Measured:
        """The measurements so far."""
        drift = None if self._drift is None else self._drift.result()
        value, unit = (math.nan, "") if self._effect is None else (self._effect.mean(), self._effect.name)
        if drift is not None:
            drift = replace(drift, measure=unit, value=None if math.isnan(value) else value)
        obstacle = None if self._hits is None else self._hits.obstacle
        return Measured(
            drift,
            value,
            unit,
            None if self._hits is None else self._hits.result(),
            None if self._metric is None else self._metric.result(),
            () if obstacle is None else (obstacle,),
        )
