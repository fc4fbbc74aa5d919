"""Drift, accuracy and metric of a model against its original, as they are measured and as they are shown.

`validation/measure.py` measures them. Every report shows the same figure and the same clause of one, made here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.display.facts import Figure
from onnxheadprune.display.spelling import accuracy, share
from onnxheadprune.model.documents import Document
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import JsonObject, Key
from onnxheadprune.runtime.feeds.data import RANDOM_INPUTS, Basis

FINE = 1000
"""Labels from which an accuracy has two decimals."""


@one_line("original pruned count measured_on output")
@dataclass(frozen=True)
class Accuracy(JsonObject, Basis):
    """Fraction of labels that the largest entry hits, before and after.

    Attributes:
        output: whose largest entry is compared.
        count: labels, without those that are ignored.
        original: of the original.
        pruned: of the pruned model.
    """

    output: str
    count: int
    original: float
    pruned: float

    @property
    def figure(self) -> Figure:
        """The accuracy before and after, in percent."""
        fine = self.count >= FINE
        spell, moved = accuracy if fine else share, 100 * (self.pruned - self.original)
        change = f"{moved:+.{2 if fine else 1}f} points" if moved else ""
        note = self.note(self.count, "label")
        return Figure("accuracy", spell(self.original), spell(self.pruned), change, note)

    @property
    def lost(self) -> float:
        """The part of the correct outputs that is lost."""
        return 1 - self.pruned / self.original if self.original else 0.0


@one_line("name original pruned samples measured_on")
@dataclass(frozen=True)
class MetricResult(JsonObject, Basis):
    """A metric before and after.

    Attributes:
        name: of the function.
        samples: how many it was measured on.
        original: with the original model.
        pruned: with the pruned one.
    """

    name: str
    samples: int
    original: float
    pruned: float

    @property
    def figure(self) -> Figure:
        """The metric before and after."""
        change = f"{self.pruned - self.original:+.4g}"
        return Figure(
            self.name, f"{self.original:.4g}", f"{self.pruned:.4g}", change, self.note(self.samples)
        )


@one_line("value measure cosine top1_agreement source output")
@dataclass(frozen=True)
class Drift(JsonObject, Basis):
    """The distance of the pruned model's main output from the original's: the price of the cut.

    Attributes:
        source: "random" or "data".
        output: the output that was compared.
        max: largest difference, relative to the output's scale.
        mean: mean absolute difference, relative to the output's scale.
        cosine: mean cosine between vectors along the last axis.
        top1_agreement: fraction of positions with the same largest entry, None where the output does not
            look like logits.
        measure: what `--max-drift` judges: "kl" for logits, "1 - cosine" for others, or what was asked for.
        value: the drift in that measure, the same number as in `prune`; None where it is none.
        samples: how many they are.
    """

    source: str
    output: str
    max: float
    mean: float
    cosine: float
    top1_agreement: float | None
    measure: str | None = None
    value: float | None = None
    samples: int = 0

    @property
    def figure(self) -> Figure:
        """The drift, or the cosine where there is none."""
        if self.value is None:
            return Figure("cosine", f"{self.cosine:.4f}", note=self.note(self.samples))
        return drift_figure(self.value, self.measure or "", self.note(self.samples))

    @property
    def lost(self) -> float:
        """The part of the agreeing outputs that is lost, as far as the drift tells."""
        if self.top1_agreement is not None:
            return 1 - self.top1_agreement
        return 0.0 if self.value is None else _moved(self.value, self.measure or "")

    def gate(self, limit: float) -> Gate:
        """The limit of the drift, as `prune --max-drift` measures it."""
        kept = self.value is not None and self.value <= limit
        return Gate("max_drift", self.output, limit, self.value, kept, self.measure)


@dataclass(frozen=True)
class Distance(JsonObject, Basis):
    """The distance of a model from another one, both run as in a deployment."""

    drift: float  # mean over the data; see `data.drift`
    unit: Annotated[str, Key("drift_unit")]  # of the drift
    samples: int  # on which it was measured
    accuracy: Accuracy | None = None  # by the data's labels, None without
    metric: MetricResult | None = None  # the user's own measure, None without

    def on(self, data: Basis) -> Distance:
        """The same figures, which say what data they are of."""
        found, metric = self.accuracy, self.metric
        return replace(
            self,
            accuracy=None if found is None else replace(found, **vars(data)),
            metric=None if metric is None else replace(metric, **vars(data)),
            **vars(data),
        )

    @property
    def figure(self) -> Figure:
        """The drift."""
        return drift_figure(self.drift, self.unit, self.note(self.samples))

    @property
    def lost(self) -> float:
        """The part of the agreeing outputs that is lost, as far as the drift tells."""
        return _moved(self.drift, self.unit)

    def gate(self, limit: float) -> Gate:
        """The limit of the drift."""
        return Gate("max_drift", "the quantized model", limit, self.drift, self.drift <= limit, self.unit)


def drift_figure(value: float, unit: str, note: str) -> Figure:
    """A drift in its unit; no more than two digits of one are known."""
    digits = 2 if value >= 0.001 or not value else 1
    return Figure("drift", f"{value:.{digits}g} {'KL' if unit == 'kl' else f'({unit})'}", note=note)


def _moved(drift: float, unit: str) -> float:
    """The part of the outputs that a drift moves.

    Of a Kullback-Leibler divergence d, 1 - exp(-d) bounds the probability that is moved (Bretagnolle and Huber, 1979).
    """
    if unit == "kl":
        return 1 - math.exp(-drift)
    return drift if unit == "1 - cosine" else 0.0


@dataclass(frozen=True)
class Quality:
    """The measurements of one model."""

    file: str  # empty for a single model
    accuracy: Accuracy | None
    metric: MetricResult | None
    drift: Drift | Distance | None

    @classmethod
    def of(cls, measured: Document, file: str | None = None) -> Quality:
        """The measurements in a document, since jobs and folders keep documents.

        Args:
            measured: the document of a `Validation`, or of the `Distance` of a model that was quantized afterwards.
        """
        found, metric, drift = measured["accuracy"], measured["metric"], measured["drift"]
        return cls(
            file or "",
            None if not found else Accuracy(**found),
            None if not metric else MetricResult(**metric),
            _distance(measured) if isinstance(drift, float) else None if drift is None else Drift(**drift),
        )

    @property
    def figures(self) -> Iterator[Figure]:
        """The figures, the most telling first."""
        for measured in (self.accuracy, self.metric, self.drift):
            if measured is not None:
                found = measured.figure
                yield replace(found, name=f"{found.name} of {self.file}") if self.file else found

    def clauses(self, *, made: bool = False) -> Iterator[str]:
        """Clauses on the outputs, with the first figure before and after that there is; else the drift.

        Args:
            made: also on random inputs.
        """
        for figure in self.figures:
            on = f" on {figure.note}"
            if figure.note == RANDOM_INPUTS.measured_on and not made:
                continue
            if figure.after:
                same = figure.before == figure.after
                yield f"{figure.name} {'unchanged' if same else f'{figure.before} -> {figure.after}'}{on}"
                return
            yield f"{figure.name} {figure.before}{on}"

    def lost(self, limited: Collection[str]) -> float:
        """The part of the correct or agreeing outputs that is lost, as far as no limit allows it.

        Accuracy counts before drift: outputs may move and still be right.

        Args:
            limited: names of the limits that judge outputs.
        """
        allowed = {name.rpartition("_drop")[0] or name for name in limited}
        if allowed & {"min_accuracy", "max_accuracy", "min_metric", "max_metric"}:
            return 0.0
        if self.accuracy is not None:
            return self.accuracy.lost
        if self.drift is None or "max_drift" in allowed:
            return 0.0
        made = self.drift.measured_on == RANDOM_INPUTS.measured_on
        return 0.0 if made and self.metric is None else self.drift.lost


def _distance(measured: Document) -> Distance:
    known: dict[str, Any] = {key: measured[key] for key in vars(RANDOM_INPUTS) if key in measured}
    return Distance(measured["drift"], measured["drift_unit"], measured["samples"], **known)


def qualities(validations: Iterable[Document | None], quantized: bool) -> list[Quality]:
    """The measurements of all models that were compared, of quantized ones those as they are deployed.

    Args:
        validations: documents of proofs, with "file" in a folder and "deployed" where a model was quantized afterwards.
    """
    every = [(item, item.get("file")) for item in validations if item is not None]
    if quantized:
        return [Quality.of(item["deployed"], file) for item, file in every if "deployed" in item]
    return [Quality.of(item, file) for item, file in every]
