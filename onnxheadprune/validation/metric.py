"""The user's own measure of quality, collected over inputs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxheadprune.errors import UsageError
from onnxheadprune.model.display import one_line
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.generate import Feed, Outputs
from onnxheadprune.runtime.feeds.samples import USERS_DATA
from onnxheadprune.runtime.foreign import import_function, users_code

Metric: TypeAlias = "str | Callable[..., Any]"


WHOLE = ("feeds", "dataset")
"""Names of the second parameter that ask for all feeds at once."""


@one_line()
@dataclass(frozen=True)
class MetricResult(JsonObject):
    """A metric before and after.

    Attributes:
        name: of the function.
        samples: how many it was measured on.
        original: with the original model.
        pruned: with the pruned one.
        measured_on: what the samples are, and what has seen them before.
    """

    name: str
    samples: int
    original: float
    pruned: float
    measured_on: str = USERS_DATA


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
