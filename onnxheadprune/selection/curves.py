"""Measured drift of every site along its path: what makes errors of different sites comparable.

How much an error in one layer's attention matters depends on everything behind it. So each site alone is cut
at a few points of its path, its projection refitted from the Gram matrix, and the effect on the model's
outputs is measured. The part of the model before the site runs once (`scoring.suffix`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import helper

from onnxheadprune.calibration.contexts import Progress, run_feed, silent
from onnxheadprune.calibration.data import Calibration
from onnxheadprune.calibration.drift import Effect, EffectMeter
from onnxheadprune.calibration.linear import Linear, linear_of
from onnxheadprune.calibration.main_output import MainOutput
from onnxheadprune.calibration.moments import Moments, ridge
from onnxheadprune.calibration.weights import Array
from onnxheadprune.graph.view import GraphView
from onnxheadprune.runtime import Provider
from onnxheadprune.scoring.moves import Step
from onnxheadprune.scoring.suffix import halves
from onnxheadprune.sites.site import AttentionSite

STRENGTH = 3e-2
"""Ridge of the refits that are only measured, not kept."""
POINTS = 6
"""Steps of a path to measure; the others are interpolated along their error."""


def measured_path(
    view: GraphView,
    site: AttentionSite,
    steps: Sequence[Step],
    moments: Sequence[Moments],
    data: Calibration,
    provider: Provider,
    main: MainOutput,
    effect: Effect | None = None,
) -> tuple[Step, ...]:
    """A path with drifts in place of errors.

    Args:
        view: an annotated view of the model.
        site: the site.
        steps: its path.
        moments: of the context of each of its projections.
        data: what to measure on.
        provider: where to run.
        main: the output that drift is measured on.
        effect: the user's measure.
    """
    if not steps:
        return ()
    points = sorted({round(at) for at in np.linspace(0, len(steps) - 1, min(POINTS, len(steps)))})
    # Weights that something else reads too are not refitted later, so not here either.
    linears = [
        None if (linear := linear_of(projection)) is None or linear.matrix.shared else linear
        for projection in site.projections
    ]
    open_weights = [name for linear in linears if linear is not None for name in _names(linear)]
    outputs = [main.name] if effect is None else [info.name for info in view.model.graph.output]
    parts = halves(view, site, outputs, provider, open_weights=open_weights)
    meters = [EffectMeter(main, data.inputs, effect) for _ in points]
    refits = [dict(_refits(site, linears, moments, steps[point])) for point in points]
    originals = {
        name: value for linear in linears if linear is not None for name, value in _originals(linear)
    }
    for feed in data.feeds:
        prepared = {**feed, **run_feed(parts.before, feed, data.source), **originals}
        before = parts.outputs(prepared, site, ())
        for meter, point, refit in zip(meters, points, refits, strict=True):
            after = parts.outputs({**prepared, **refit}, site, tuple(sorted(steps[point].removed)))
            meter.add(before, after, feed)
    drifts = np.maximum.accumulate([max(meter.mean(), 0.0) for meter in meters])
    errors = [steps[point].error for point in points]
    smooth = np.interp([step.error for step in steps], [0.0, *errors], [0.0, *drifts])
    return tuple(Step(step.removed, float(drift)) for step, drift in zip(steps, smooth, strict=True))


def _names(linear: Linear) -> Iterator[str]:
    yield linear.matrix.stored.name
    if linear.bias is not None:
        yield linear.bias.name


def _originals(linear: Linear) -> Iterator[tuple[str, Array]]:
    yield linear.matrix.stored.name, linear.matrix.written(linear.matrix.read())
    bias = linear.read_bias()
    if linear.bias is not None and bias is not None:
        yield linear.bias.name, _as_stored(linear, bias)


def _as_stored(linear: Linear, bias: Array) -> Array:
    assert linear.bias is not None and linear.bias.tensor is not None
    tensor = linear.bias.tensor
    return bias.reshape(tuple(tensor.dims)).astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _refits(
    site: AttentionSite, linears: Sequence[Linear | None], moments: Sequence[Moments], step: Step
) -> Iterator[tuple[str, Array]]:
    """New weights for the heads that are left, so that the output stays near what it was."""
    for projection, linear, moment in zip(site.projections, linears, moments, strict=True):
        if linear is None:
            continue
        rows = np.flatnonzero(projection.live_without(step.removed).reshape(-1))
        weight, bias = linear.matrix.read(), linear.read_bias()
        new = np.zeros_like(weight)
        if len(rows):
            new[rows] = ridge(moment.towards(weight, rows), weight[rows], STRENGTH)
        yield linear.matrix.stored.name, linear.matrix.written(new)
        if bias is not None and linear.bias is not None:
            mean = moment.x_sum / (moment.total or 1.0)
            yield linear.bias.name, _as_stored(linear, bias + mean @ (weight - new))


def measured_paths(
    view: GraphView,
    sites: Sequence[AttentionSite],
    paths: dict[int, tuple[Step, ...]],
    moments: dict[int, tuple[Moments, ...]],
    data: Calibration,
    provider: Provider,
    main: MainOutput,
    effect: Effect | None = None,
    progress: Progress = silent,
) -> dict[int, tuple[Step, ...]]:
    """`measured_path` for every site."""
    found = {}
    for number, site in enumerate(sites, 1):
        found[site.index] = measured_path(
            view, site, paths[site.index], moments[site.index], data, provider, main, effect
        )
        progress("measuring what cuts cost, site by site", number, len(sites))
    return found
