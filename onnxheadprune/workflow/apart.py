"""The distance between two models on the user's data, both run as in a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxheadprune.choosing.activations.parts import run_feed
from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.data.drift import Measure
from onnxheadprune.data.respelled import renumbered
from onnxheadprune.data.sources import read_data
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.load import LoadedModel, open_structure
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.data import USERS_DATA, DataSource
from onnxheadprune.runtime.feeds.generate import narrowed
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.settings.calls import ValidateCall
from onnxheadprune.validation.claim import read_claim
from onnxheadprune.validation.figures import Distance
from onnxheadprune.validation.measure import Meter, Metric, MetricMeter
from onnxheadprune.validation.reference import prepared
from onnxheadprune.workflow.requests import measure_of


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


def deployed_distance(model: Path, exact: Path, final: Path, call: ValidateCall) -> Distance:
    """Drift, accuracy and metric of a model that was made of a cut, by quantizing it, both run as in a deployment.

    Args:
        exact: the cut, whose record has the remaining inputs and outputs, and tokens.
        call: names the data, and the measures.
    """
    original, cut, made = map(open_structure, (model, exact, final))
    ready = prepared(original, cut)
    claim = read_claim(ready.model, cut.proto, None, (original.name, cut.name), left=ready.is_changed)
    data: DataSource | None = read_data(model, call)
    assert data is not None
    if ready.trimmed is not None:
        data = renumbered(data, original, ready.trimmed)
        original = original.changed(ready.trimmed.translated(original))
    inputs = calibration_data(data, view_of(original))
    reference = Reference(original, inputs, resolve_provider(call.provider))
    return reference.distance(made, measure_of(call.drift), call.metric, claim.planning.io)
