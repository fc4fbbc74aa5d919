"""The curve: what cuts of many sizes cost, and what they bring."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxheadprune.benchmarking import BenchSettings, SpeedUp
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.model.travelling import Sent, arrived, sent
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.data import IGNORED_LABEL
from onnxheadprune.runtime.feeds.narrowing import narrowed
from onnxheadprune.selection import Requirements, Selection
from onnxheadprune.selection.activations.data import Calibration
from onnxheadprune.selection.activations.drift import EffectMeter
from onnxheadprune.selection.completing import completed
from onnxheadprune.selection.cutting import Cutter, Trying
from onnxheadprune.selection.scoring.ablation import require_main
from onnxheadprune.selection.scoring.executors import run_all
from onnxheadprune.selection.speed import speedups


@dataclass(frozen=True)
class CurvePoint:
    """One cut.

    Attributes:
        ratio: share of all heads that was asked for.
        removed: heads that went.
        heads: which, as a head spec.
        drift: on held-out data.
        accuracy: on held-out data, None without labels.
        speedup: measured beside the original (`SpeedUp.value`); 1 where nothing was removed, None where it was
            not measured.
        speed: the measurement behind it, None where there is none.
    """

    ratio: float
    removed: int
    heads: Mapping[str, Sequence[int]]
    drift: float
    accuracy: float | None
    speedup: float | None
    speed: SpeedUp | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "ratio": self.ratio,
            "removed": self.removed,
            "heads": {index: list(heads) for index, heads in self.heads.items()},
            "drift": self.drift,
            "accuracy": self.accuracy,
            "speedup": self.speedup,
            "speed": None if self.speed is None else self.speed.to_dict(),
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
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


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

    ratio: float
    selection: Selection
    model: Sent
    data: Calibration
    provider: Provider
    trying: Trying


def sweep_ratios(
    cutter: Cutter, requirements: Requirements, ratios: Sequence[float], executor: Executor | None = None
) -> Curve:
    """The curve over some ratios, each with its own choice, compensation and measurements.

    Args:
        cutter: the model and its data.
        requirements: scores, limits and protected heads, and how speed is measured.
        ratios: shares of all heads.
        executor: where to work on the points; None does so here. Points would disturb each other's clocks, so
            latencies are measured here afterwards, those of several points side by side.

    Raises:
        UsageError: without data.
        RefusedError: if nothing can be removed.
    """
    cutter.hold_out("a sweep measures on data")
    data = cutter.data
    assert data is not None
    space = cutter.search_space(requirements)
    selections = []
    for ratio in ratios:
        wanted = min(round(space.total * ratio), space.most())
        try:
            selection = space.removing(wanted) if wanted else Selection({}, space.basis)
        except RefusedError:
            selection = Selection({}, space.basis)
        selections.append(selection)

    def done(position: int, _point: CurvePoint) -> None:
        cutter.progress("sweeping", position + 1, len(ratios))

    cuts = list(zip(ratios, selections, strict=True))
    if executor is None:
        points = run_all(lambda cut: _measured(cutter, *cut), cuts, None, done)
    else:
        content = sent(cutter.model)
        tasks = [
            PointTask(
                ratio,
                selection,
                content,
                data,
                cutter.provider,
                replace(cutter.trying, compensate=cutter.compensate),
            )
            for ratio, selection in cuts
        ]
        points = run_all(measure_point, tasks, executor, done)
    points = _timed(cutter, points, selections, requirements.sizes)
    unit = EffectMeter(require_main(cutter.view), data.inputs, cutter.trying.effect).name
    return Curve(
        cutter.model.name, space.total, unit, tuple(points), knee([point.drift for point in points], ratios)
    )


def measure_point(task: PointTask) -> CurvePoint:
    """One point of the curve, without its latency."""
    cutter = Cutter(arrived(task.model), task.data, task.provider, task.trying)
    cutter.hold_out("a sweep measures on data")
    return _measured(cutter, task.ratio, task.selection)


def _measured(cutter: Cutter, ratio: float, selection: Selection) -> CurvePoint:
    if not selection.count:
        return CurvePoint(ratio, 0, {}, 0.0, _accuracy(cutter, cutter.model, {}), None)
    chosen = completed(cutter, selection)
    accuracy = _accuracy(cutter, cutter.cut(chosen), chosen.io)
    return CurvePoint(ratio, selection.count, selection.spec, chosen.drift or 0.0, accuracy, None)


def _timed(
    cutter: Cutter,
    points: Sequence[CurvePoint],
    selections: Sequence[Selection],
    sizes: BenchSettings,
) -> list[CurvePoint]:
    """The points with their speed-ups; each set of heads is measured once."""
    different = {repr(selection.spec): selection for selection in selections if selection.count}
    makers = [functools.partial(cutter.timed, selection) for selection in different.values()]
    cutter.progress("measuring latencies", 0, 0)
    found = dict(zip(different, speedups(cutter.model, makers, cutter.provider, sizes), strict=True))
    timed = []
    for point, selection in zip(points, selections, strict=True):
        speed = found.get(repr(selection.spec))
        timed.append(replace(point, speedup=1.0 if speed is None else speed.value, speed=speed))
    return timed


def _accuracy(cutter: Cutter, model: LoadedModel, io: Mapping[str, Live]) -> float | None:
    """Share of held-out labels that the largest entry of the main output hits; `io` is what a cut narrows."""
    assert cutter.held is not None
    labelled = [sample for sample in cutter.held.samples if sample.labels is not None]
    if not labelled:
        return None
    main = require_main(cutter.view).name
    session = Session(model, cutter.provider, name="the pruned model", optimize=True)
    hits = count = 0
    for sample in labelled:
        output = session.run(narrowed(sample.feed, io))[main]
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
