"""The distance between two models on the user's data, both run as in a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxheadprune.choosing.activations.parts import run_feed
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import Measure
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.data import USERS_DATA
from onnxheadprune.runtime.feeds.generate import narrowed
from onnxheadprune.validation.figures import Distance
from onnxheadprune.validation.measure import Meter, Metric, MetricMeter


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
        self,
        other: LoadedModel,
        effect: Measure | None = None,
        metric: Metric | None = None,
        io: Interface = AS_BEFORE,
    ) -> Distance:
        """Return the distance of another model from this one.

        Args:
            effect: the measure of drift; None goes by the kind of output.
            metric: the user's own measure of quality.
        """
        view = view_of(self.model)
        main = require_main_output(view, io.changed)
        judge = None if metric is None else MetricMeter(metric)
        meter = Meter("data", main, self.data.inputs, effect, judge)
        session = Session(other, self.provider, name=other.name, optimize=True)
        for sample, before in zip(self.data.batches, self.outputs, strict=True):
            after = run_feed(session, narrowed(sample.feed, io), self.data.source)
            meter.add(sample.feed, sample.labels, before, after)
        found = meter.result()
        distance = Distance(found.value, found.unit, self.data.count, found.accuracy, found.metric)
        return distance.on(self.data.role or USERS_DATA)
