"""The curve: what cuts of many sizes cost, and what they bring."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxheadprune.benchmarking import benchmark
from onnxheadprune.calibration.data import Calibration
from onnxheadprune.calibration.drift import Effect, EffectMeter
from onnxheadprune.choosing import Chooser, Wish, speedup
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.feeds.data import IGNORED_LABEL
from onnxheadprune.model_io import LoadedModel, open_model
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.scoring.ablation import require_main
from onnxheadprune.scoring.executors import run_all
from onnxheadprune.selection import Selection

SECONDS = 4.0
"""Time to measure a latency, per point and grid point."""


@dataclass(frozen=True)
class CurvePoint:
    """One cut.

    Attributes:
        ratio: share of all heads that was asked for.
        removed: heads that went.
        heads: which, as a head spec.
        drift: on held-out data.
        accuracy: on held-out data, None without labels.
        speedup: measured, None where it was not.
    """

    ratio: float
    removed: int
    heads: Mapping[str, Sequence[int]]
    drift: float
    accuracy: float | None
    speedup: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "ratio": self.ratio,
            "removed": self.removed,
            "heads": {index: list(heads) for index, heads in self.heads.items()},
            "drift": self.drift,
            "accuracy": self.accuracy,
            "speedup": self.speedup,
        }


@dataclass(frozen=True)
class Curve:
    """Cuts of growing size.

    Attributes:
        model: the model's name.
        heads: heads of all its sites.
        unit: of the drift.
        points: the cuts, the empty one first.
        knee: position of the point where further cuts begin to cost much more.
    """

    model: str
    heads: int
    unit: str
    points: tuple[CurvePoint, ...]
    knee: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "format": 1,
            "model": self.model,
            "heads": self.heads,
            "drift_unit": self.unit,
            "points": [point.to_dict() for point in self.points],
            "knee": self.knee,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the curve as JSON.

        Raises:
            UsageError: if the file cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def parse_sweep(spec: str) -> tuple[float, ...]:
    """Ratios from "0:0.7:0.05", both ends included.

    Raises:
        UsageError: if it is no such range.
    """
    try:
        start, stop, step = (float(part) for part in spec.split(":"))
    except ValueError as error:
        raise UsageError(f"a sweep is START:STOP:STEP like 0:0.7:0.05, not {spec!r}") from error
    if not (0 <= start <= stop < 1 and step > 0):
        raise UsageError(f"the ratios of a sweep run upwards between 0 and 1, which {spec!r} does not")
    count = int((stop - start) / step + 1e-9) + 1
    return tuple(round(start + step * position, 10) for position in range(count))


@dataclass(frozen=True, eq=False)
class PointTask:
    """One point of the curve as work that can travel."""

    model: bytes
    name: str
    selection: Selection
    ratio: float
    data: Calibration
    provider: Provider
    compensate: bool
    latency: bool
    effect: Effect | None = None


def sweep_ratios(
    chooser: Chooser, wish: Wish, ratios: Sequence[float], executor: Executor | None = None
) -> Curve:
    """The curve over some ratios, each with its own choice, compensation and measurements.

    Args:
        chooser: the model and its data.
        wish: scores, limits and protected heads; its own ratio does not matter.
        ratios: shares of all heads.
        executor: where to work on the points; None does so here and measures latency too. Elsewhere points
            would disturb each other's clocks, so latencies are measured here afterwards.

    Raises:
        UsageError: without data.
        RefusedError: if nothing can be removed.
    """
    chooser.hold_out("a sweep measures on data")
    data = chooser.data
    assert data is not None
    found = chooser.ground(wish)
    tasks = []
    content = chooser.model.proto.SerializeToString()
    for ratio in ratios:
        wanted = min(round(found.total * ratio), found.most())
        try:
            selection = found.removing(wanted) if wanted else Selection({}, found.basis)
        except RefusedError:
            selection = Selection({}, found.basis)
        tasks.append(
            PointTask(
                content,
                chooser.model.name,
                selection,
                ratio,
                data,
                chooser.provider,
                chooser.compensate,
                executor is None,
                chooser.effect,
            )
        )

    def done(position: int, _point: CurvePoint) -> None:
        chooser.progress("sweeping", position + 1, len(tasks))

    points = run_all(measure_point, tasks, executor, done)
    if executor is not None:
        points = [
            replace(point, speedup=_speedup(chooser.model, chooser, task))
            for point, task in zip(points, tasks, strict=True)
        ]
    unit = EffectMeter(require_main(chooser.view), data.inputs, chooser.effect).name
    return Curve(
        chooser.model.name, found.total, unit, tuple(points), knee([point.drift for point in points], ratios)
    )


def measure_point(task: PointTask) -> CurvePoint:
    """One point of the curve."""
    from onnx import ModelProto

    model: Any = ModelProto()
    model.ParseFromString(task.model)
    loaded = replace(open_model(model), name=task.name)
    chooser = Chooser(loaded, task.data, task.provider, compensate=task.compensate, effect=task.effect)
    chooser.hold_out("a sweep measures on data")
    if not task.selection.count:
        return CurvePoint(task.ratio, 0, {}, 0.0, _accuracy(chooser, loaded), 1.0 if task.latency else None)
    chosen = chooser.completed(task.selection)
    pruned = chooser.pruned(chosen.selection, chosen.compensation)
    return CurvePoint(
        task.ratio,
        task.selection.count,
        task.selection.spec,
        chosen.drift or 0.0,
        _accuracy(chooser, pruned),
        _speedup(loaded, chooser, task) if task.latency else None,
    )


def _speedup(model: LoadedModel, chooser: Chooser, task: PointTask) -> float:
    if not task.selection.count:
        return 1.0
    pruned = chooser.pruned(task.selection, None)
    result = benchmark(model, pruned, provider=chooser.provider, time_budget=SECONDS, memory=False)
    return speedup(result)


def _accuracy(chooser: Chooser, model: LoadedModel) -> float | None:
    """Share of held-out labels that the largest entry of the main output hits."""
    assert chooser.held is not None
    labelled = [sample for sample in chooser.held.samples if sample.labels is not None]
    if not labelled:
        return None
    main = require_main(chooser.view).name
    session = Session(model, chooser.provider, name="the pruned model", optimize=True)
    hits = count = 0
    for sample in labelled:
        output = session.run(sample.feed)[main]
        if sample.labels is None or output.shape[:-1] != sample.labels.shape:
            return None
        known = sample.labels != IGNORED_LABEL
        hits += int(np.sum(output.argmax(axis=-1)[known] == sample.labels[known]))
        count += int(known.sum())
    return hits / count if count else None


def knee(drifts: Sequence[float], ratios: Sequence[float]) -> int | None:
    """The point farthest below the line from the first to the last (Kneedle, Satopää et al. 2011)."""
    if len(drifts) < 3 or drifts[-1] <= drifts[0] or ratios[-1] <= ratios[0]:
        return None
    x = (np.asarray(ratios) - ratios[0]) / (ratios[-1] - ratios[0])
    y = (np.asarray(drifts) - drifts[0]) / (drifts[-1] - drifts[0])
    distance = x - y
    return int(np.argmax(distance)) if distance.max() > 0 else None
