"""The distance between two models on the user's data, both run as in a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from onnxheadprune.choosing.activations.parts import run_feed
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import Measure
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.typed_json import JsonObject, Key
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.generate import narrowed
from onnxheadprune.runtime.feeds.samples import USERS_DATA
from onnxheadprune.validation.measure import Meter, Metric, MetricMeter
from onnxheadprune.validation.result import Accuracy, MetricResult


@dataclass(frozen=True)
class Looking:
    """The settings of a comparison."""

    effect: Measure | None = None  # the measure of drift; None goes by the kind of output
    metric: Metric | None = None  # the user's own measure of quality, None without


@dataclass(frozen=True)
class Distance(JsonObject):
    """The distance of a model from another one."""

    drift: float  # mean over the data; see `data.drift`
    unit: Annotated[str, Key("drift_unit")]  # of the drift
    samples: int  # on which it was measured
    accuracy: Accuracy | None = None  # by the data's labels, None without
    metric: MetricResult | None = None  # the user's own measure, None without
    # a description of the data, with the refits and trainings that used it
    measured_on: str = USERS_DATA

    def on(self, known: str) -> Distance:
        """The same figures, with a description of the data."""
        found, metric = self.accuracy, self.metric
        return replace(
            self,
            accuracy=None if found is None else replace(found, measured_on=known),
            metric=None if metric is None else replace(metric, measured_on=known),
            measured_on=known,
        )


@dataclass
class Reference:
    """The reference model, run once."""

    model: LoadedModel
    data: Calibration  # its inputs
    provider: Provider  # where it ran
    outputs: list[Mapping[str, Any]] = field(default_factory=list)  # its outputs, feed by feed

    def __post_init__(self) -> None:
        session = Session(self.model, self.provider, name=self.model.name, optimize=True)
        self.outputs = [run_feed(session, feed, self.data.source) for feed in self.data.feeds]

    def distance(
        self, other: LoadedModel, looking: Looking = Looking(), io: Interface = AS_BEFORE
    ) -> Distance:
        """Return the distance of another model from this one."""
        view = view_of(self.model)
        main = require_main_output(view, io.changed)
        metric = None if looking.metric is None else MetricMeter(looking.metric)
        meter = Meter("data", main, self.data.inputs, looking.effect, metric)
        session = Session(other, self.provider, name=other.name, optimize=True)
        for sample, before in zip(self.data.samples, self.outputs, strict=True):
            after = run_feed(session, narrowed(sample.feed, io), self.data.source)
            meter.add(sample.feed, sample.labels, before, after)
        found = meter.result()
        distance = Distance(found.value, found.unit, self.data.count, found.accuracy, found.metric)
        return distance.on(self.data.role or USERS_DATA)
