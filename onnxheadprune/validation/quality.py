"""Drift, accuracy and metric of one model: the figures, clauses and judgements of every report.

Made of the document of a measurement, since jobs and folders keep documents: that of a proof, or that of a model which
was quantized after its proof and is compared as a deployment runs it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from onnxheadprune.display.facts import Figure
from onnxheadprune.display.spelling import accuracy, share
from onnxheadprune.model.documents import Document
from onnxheadprune.runtime.feeds.data import RANDOM_INPUTS, Basis

FINE = 1000
"""Labels from which an accuracy has two decimals."""


@dataclass(frozen=True)
class Pair:
    """A quantity with the original model and with the pruned one."""

    name: str
    original: float
    pruned: float
    count: int  # of labels or samples
    basis: Basis


@dataclass(frozen=True)
class Drift:
    """The distance of the outputs from the original's."""

    unit: str
    value: float | None  # None where the main output has no such measure
    cosine: float | None
    agreement: float | None  # the part of positions whose largest entry is the same, where outputs are logits
    samples: int
    basis: Basis

    @property
    def figure(self) -> Figure:
        """The drift, or the cosine where there is none."""
        on = self.basis.note(self.samples)
        if self.value is None:
            return Figure("cosine", f"{self.cosine:.4f}", note=on)
        unit = "KL" if self.unit == "kl" else f"({self.unit})"
        # No more than two digits of a drift are known.
        digits = 2 if self.value >= 0.001 or not self.value else 1
        return Figure("drift", f"{self.value:.{digits}g} {unit}", note=on)

    @property
    def lost(self) -> float:
        """The part of the agreeing outputs that is lost, as far as the drift tells.

        Of a Kullback-Leibler divergence d, 1 - exp(-d) bounds the probability that is moved (Bretagnolle and Huber,
        1979).
        """
        if self.agreement is not None:
            return 1 - self.agreement
        if self.value is None or self.unit not in ("kl", "1 - cosine"):
            return 0.0
        return 1 - math.exp(-self.value) if self.unit == "kl" else self.value


@dataclass(frozen=True)
class Quality:
    """The measurements of one model."""

    file: str  # empty for a single model
    accuracy: Pair | None
    metric: Pair | None
    drift: Drift | None

    @classmethod
    def of(cls, measured: Document, file: str | None = None) -> Quality:
        """The measurements that a document holds."""
        found, metric, drift = measured["accuracy"], measured["metric"], measured["drift"]
        if isinstance(drift, float):
            unit, value, drift = measured["drift_unit"], drift, measured
        elif drift is not None:
            unit, value = drift["measure"], drift["value"]
        return cls(
            file or "",
            None
            if not found
            else Pair("accuracy", found["original"], found["pruned"], found["count"], _basis(found)),
            None
            if not metric
            else Pair(
                metric["name"], metric["original"], metric["pruned"], metric["samples"], _basis(metric)
            ),
            None
            if drift is None
            else Drift(
                unit,
                value,
                drift.get("cosine"),
                drift.get("top1_agreement"),
                drift["samples"],
                _basis(drift),
            ),
        )

    @property
    def figures(self) -> Iterator[Figure]:
        """The figures, the most telling first."""
        of = f" of {self.file}" if self.file else ""
        if found := self.accuracy:
            fine = found.count >= FINE
            spell, moved = accuracy if fine else share, 100 * (found.pruned - found.original)
            change = f"{moved:+.{2 if fine else 1}f} points" if moved else ""
            note = found.basis.note(found.count, "label")
            yield Figure(f"accuracy{of}", spell(found.original), spell(found.pruned), change, note)
        if metric := self.metric:
            change = f"{metric.pruned - metric.original:+.4g}"
            values = f"{metric.original:.4g}", f"{metric.pruned:.4g}"
            yield Figure(f"{metric.name}{of}", *values, change, metric.basis.note(metric.count))
        if self.drift is not None:
            figure = self.drift.figure
            yield Figure(f"{figure.name}{of}", figure.before, note=figure.note)

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
        if found := self.accuracy:
            return 1 - found.pruned / found.original if found.original else 0.0
        measured = self.drift is not None and (self.metric is not None or self.drift.basis != RANDOM_INPUTS)
        return self.drift.lost if self.drift is not None and measured and "max_drift" not in allowed else 0.0


def qualities(validations: Iterable[Document | None], quantized: bool) -> list[Quality]:
    """The measurements of all models that were compared, of quantized ones those as they are deployed.

    Args:
        validations: documents of proofs, with "file" in a folder and "deployed" where a model was quantized afterwards.
    """
    every = [(item, item.get("file")) for item in validations if item is not None]
    if quantized:
        return [Quality.of(item["deployed"], file) for item, file in every if "deployed" in item]
    return [Quality.of(item, file) for item, file in every]


def _basis(measured: Document) -> Basis:
    return Basis(
        measured_on=measured["measured_on"],
        seen_by=measured.get("seen_by"),
        held_out=measured.get("held_out", False),
    )
