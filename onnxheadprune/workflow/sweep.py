"""`sweep`: cuts of many sizes, each chosen, refitted and measured, as a curve."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from numbers import Real
from typing import TypeAlias

import numpy as np

from onnxheadprune.attention.main_graph_copy import first_tokens
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.choosing.space import Selection
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.data.sources import read_data
from onnxheadprune.display.spelling import many
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.model.pickling import Sent, arrived, sent
from onnxheadprune.model.save import Outputs
from onnxheadprune.model.storage.claims import Making
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.generate import narrowed
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.settings.calls import PruneCall, SweepCall
from onnxheadprune.settings.setting import Shares
from onnxheadprune.validation.measure import AccuracyMeter
from onnxheadprune.workflow.choice.chosen import basis_of
from onnxheadprune.workflow.choice.completing import completed
from onnxheadprune.workflow.choice.cutting import Cutter
from onnxheadprune.workflow.choice.latency import speedups
from onnxheadprune.workflow.curve import Curve, CurvePoint
from onnxheadprune.workflow.executors import open_executor, run_all
from onnxheadprune.workflow.requests import Request, readings_of

_NOT_UPWARDS = "the ratios of a sweep run upwards between 0 and 1, which {!r} does not"


def parse_sweep(spec: str | Sequence[float]) -> tuple[float, ...]:
    """Ratios from "0:0.7:0.05" or "0:70%:5%", both ends included; numbers as they are."""
    if not isinstance(spec, str):
        ratios = tuple(spec) if isinstance(spec, Iterable) else ()
        if (
            not ratios
            or not all(isinstance(ratio, Real) and 0 <= ratio < 1 for ratio in ratios)
            or sorted(ratios) != list(ratios)
        ):
            raise UsageError(_NOT_UPWARDS.format(spec))
        return ratios
    try:
        start, stop, step = (float(str(Shares().read(part))) for part in spec.split(":"))
    except ValueError as error:
        raise UsageError(f"a sweep is START:STOP:STEP like 0:0.7:0.05, not {spec!r}") from error
    if not (0 <= start <= stop < 1 and step > 0):
        raise UsageError(f"{_NOT_UPWARDS.format(spec)}; write 50% for percent")
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
    request: Request


def run_sweep(
    model: ModelLike,
    ratios: str | Sequence[float],
    call: SweepCall,
    progress: Progress = silent,
    *,
    beside: Iterable[Making] = (),
) -> Curve:
    """Measure cuts of many sizes as a call asks for.

    Args:
        ratios: see `parse_sweep`.
        beside: the curve and its picture, which the caller writes.
    """
    wanted = parse_sweep(ratios)
    loaded = open_structure(model)
    Outputs(None, beside=tuple(beside)).claim(loaded, others=readings_of(call))
    given = {name: value for name, value in vars(call).items() if name not in ("jobs", "dask")}
    request = Request.of(PruneCall(**given))
    provider, data = resolve_provider(call.provider), read_data(loaded, call)
    with open_executor(call.jobs, call.dask) as executor:
        subject = loaded if data is None else first_tokens(loaded) or loaded
        cutter = Cutter(subject, data, provider, request, progress)
        return sweep_ratios(cutter, wanted, executor, call.jobs)


def sweep_ratios(
    cutter: Cutter,
    ratios: Sequence[float],
    executor: Executor | None = None,
    at_once: int = 1,
) -> Curve:
    """The curve over some ratios, each with its own choice, compensation and measurements.

    Args:
        ratios: shares of all heads; with other units, of the operations of all blocks, or of their bytes.
        executor: where to work on the points; None does so here. Points would disturb each other's clocks, so
            latencies are measured here before, those of several points side by side.
        at_once: points that the executor works on at a time: they share the time of a call.
    """
    cutter.hold_out("a sweep measures on data")
    data = cutter.data
    assert data is not None
    space = cutter.search_space()
    selections = []
    for ratio in ratios:
        wanted = min(round(space.total * ratio), space.most())
        try:
            selection = space.removing(wanted) if wanted else Selection({}, space.basis)
        except RefusedError:
            selection = Selection({}, space.basis)
        selections.append(selection)

    # What the points leave of a time is unknown, and what comes before them is not.
    speeds = _timed(cutter, selections)
    points = _points(cutter, list(zip(ratios, selections, strict=True)), executor, at_once)
    points = [
        replace(
            point,
            share=space.share_of(selection),
            speedup=1.0 if speed is None else speed.value,
            speed=speed,
        )
        for point, selection, speed in zip(points, selections, speeds, strict=True)
    ]
    unit = EffectMeter(require_main_output(cutter.view), data.inputs, cutter.request.call.drift).name
    bend = knee([point.drift for point in points], ratios)
    heads = sum(site.num_heads for site in cutter.sites)
    elements = _elements(cutter.model)
    where = _measured_on(cutter)
    return Curve(cutter.model.name, heads, unit, tuple(points), bend, elements, space.counted, where)


LATENCIES = 0.1
"""Part of what is left of the time of a call that measuring latencies takes: trainings need it more."""
Sized: TypeAlias = tuple[float, Selection]
"""A ratio, and what goes."""


def _points(
    cutter: Cutter, cuts: Sequence[Sized], executor: Executor | None, at_once: int
) -> list[CurvePoint]:
    """The points of the curve, without their latencies. The time of a call is for those at which something goes."""
    budget, real = cutter.budget, sum(bool(selection.count) for _, selection in cuts)

    def done(place: int) -> None:
        cutter.progress("sweeping", place + 1, len(cuts))

    if executor is None:
        points = []
        for place, cut in enumerate(cuts):
            waiting = sum(bool(later.count) for _, later in cuts[place:])
            mine = cutter if budget is None else cutter.within(budget.turn(max(waiting, 1)))
            points.append(_measured(mine, *cut))
            done(place)
        return points
    data, content = cutter.data, sent(cutter.model)
    assert data is not None
    mine = cutter if budget is None else cutter.within(budget.part(max(math.ceil(real / at_once), 1)))
    request = replace(mine.request, call=replace(mine.request.call, data=None, refit=cutter.refit))
    tasks = [PointTask(*cut, content, data, cutter.provider, request) for cut in cuts]
    return run_all(_measure_point, tasks, executor, done)


def _measure_point(task: PointTask) -> CurvePoint:
    """One point of the curve, without its latency."""
    cutter = Cutter(arrived(task.model), task.data, task.provider, task.request)
    cutter = cutter if cutter.budget is None else cutter.within(cutter.budget.begun())
    cutter.hold_out("a sweep measures on data")
    return _measured(cutter, task.ratio, task.selection)


def _measured(cutter: Cutter, ratio: float, selection: Selection) -> CurvePoint:
    if not selection.count:
        accuracy = _accuracy(cutter, cutter.model, AS_BEFORE)
        return CurvePoint(ratio, 0, {}, 0.0, accuracy, None, elements=_elements(cutter.model))
    chosen = completed(cutter, selection)
    cut = cutter.cut(chosen)
    accuracy, drift = _accuracy(cutter, cut, chosen.io), chosen.drift or 0.0
    trained = chosen.recovery
    recovery = None if trained is None else {"steps": trained.steps, "rejected": trained.rejected}
    return CurvePoint(
        ratio,
        selection.count,
        selection.spec,
        drift,
        accuracy,
        None,
        elements=_elements(cut),
        recovery=recovery,
    )


def _measured_on(cutter: Cutter) -> str:
    """The data that drift and accuracy of all points are measured on."""
    assert cutter.data is not None and cutter.held is not None
    trained = cutter.request.budget is not None
    of = f"{cutter.held.count:,} of {many(cutter.data.count, cutter.data.unit)}"
    return f"{basis_of(cutter.is_held_out, refitted=cutter.refit, trained=trained).measured_on} ({of})"


def _elements(model: LoadedModel) -> int:
    """The number of stored weights; a local function counts at each of its calls, before a cut as after it."""
    return stored_size(model.proto).elements


def _timed(cutter: Cutter, selections: Sequence[Selection]) -> list[SpeedUp | None]:
    """The speed-up of each point, None where nothing goes; each set of heads is measured once."""
    different = {repr(selection.spec): selection for selection in selections if selection.count}
    makers = [functools.partial(cutter.timed, selection) for selection in different.values()]
    cutter.progress("measuring latencies", 0, 0)
    budget = cutter.budget
    seconds = math.inf if budget is None or budget.call is None else LATENCIES * (budget.left or 0.0)
    speeds = speedups(cutter.model, makers, cutter.provider, seconds=seconds)
    found = dict(zip(different, speeds, strict=True))
    return [found.get(repr(selection.spec)) for selection in selections]


def _accuracy(cutter: Cutter, model: LoadedModel, io: Interface) -> float | None:
    """Share of held-out labels that the largest entry of the main output hits; `io` is what a cut leaves of inputs."""
    assert cutter.held is not None
    labelled = [sample for sample in cutter.held.batches if sample.labels is not None]
    if not labelled:
        return None
    main = require_main_output(cutter.view).name
    session = Session(model, cutter.provider, name="the pruned model", optimize=True)
    meter = AccuracyMeter(main, cutter.held.inputs)
    for sample in labelled:
        output = session.run(narrowed(sample.feed, io))[main]
        assert sample.labels is not None
        meter.add(sample.labels, output, output, sample.feed)
    found = meter.result()
    return None if found is None else found.pruned


def knee(drifts: Sequence[float], ratios: Sequence[float]) -> int | None:
    """The point farthest below the line from the first to the last (Kneedle, Satopää et al. 2011)."""
    if len(drifts) < 3 or drifts[-1] <= drifts[0] or ratios[-1] <= ratios[0]:
        return None
    x = (np.asarray(ratios) - ratios[0]) / (ratios[-1] - ratios[0])
    y = (np.asarray(drifts) - drifts[0]) / (drifts[-1] - drifts[0])
    distance = x - y
    return int(np.argmax(distance)) if distance.max() > 0 else None
