"""Measured drift of every site along its path: what makes errors of different sites comparable.

How much an error in one layer's attention matters depends on everything behind it. So each site alone is cut
at a few points of its path, its projection refitted from the Gram matrix, and the effect on the model's
outputs is measured. The part of the model before the site runs once (`scoring.suffix`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from onnxheadprune.attention.matrices import Array
from onnxheadprune.attention.sites.site import AttentionSite, Projection
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.selection.activations.contexts import run_feed
from onnxheadprune.selection.activations.drift import EffectMeter
from onnxheadprune.selection.activations.linear import Linear, linear_of
from onnxheadprune.selection.activations.moments import Moments, ridge
from onnxheadprune.selection.evidence import Evidence
from onnxheadprune.selection.scoring.ablation import require_main
from onnxheadprune.selection.scoring.moves import Step, merged
from onnxheadprune.selection.scoring.suffix import halves

STRENGTH = 3e-2
"""Ridge of the refits that are only measured, not kept."""
NO_NUMBER = 1e30
"""What a cut costs whose outputs are not finite."""
POINTS = 6
"""Steps of a path to measure; the others are interpolated along their error."""


def measured_path(
    view: GraphView,
    site: AttentionSite,
    steps: Sequence[Step],
    moments: Sequence[Moments],
    evidence: Evidence,
) -> tuple[Step, ...]:
    """A path with drifts in place of errors.

    Args:
        view: an annotated view of the model.
        site: the site.
        steps: its path.
        moments: of the context of each of its projections.
        evidence: what drifts are measured on.
    """
    if not steps:
        return ()
    points = sorted({round(at) for at in np.linspace(0, len(steps) - 1, min(POINTS, len(steps)))})
    measured = [steps[point] for point in points]
    originals: dict[str, Array] = {}
    refits: list[dict[str, Array]] = [{} for _ in measured]
    for projection, moment in zip(site.projections, moments, strict=True):
        linear = linear_of(projection)
        # Weights that something else reads too are not refitted later, so not here either.
        if linear is None or linear.matrix.shared:
            continue
        originals |= _stored(linear)
        for refit, more in zip(refits, _refits(projection, linear, moment, measured), strict=True):
            refit |= more
    data, main = evidence.data, require_main(view)
    # A measure of the user's sees all outputs.
    every = [info.name for info in view.model.graph.output]
    outputs = every if callable(evidence.effect) else [main.name]
    parts = halves(view, site, outputs, evidence.provider, open_weights=originals)
    meters = [EffectMeter(main, data.inputs, evidence.effect) for _ in measured]
    for feed in data.feeds:
        prepared = {**feed, **run_feed(parts.before, feed, data.source), **originals}
        before = parts.outputs(prepared, site, ())
        for meter, step, refit in zip(meters, measured, refits, strict=True):
            after = parts.outputs({**prepared, **refit}, site, tuple(sorted(step.removed)))
            meter.add(before, after, feed)
    # A cut after which there are no numbers left costs more than any other.
    means = np.nan_to_num([meter.mean() for meter in meters], nan=NO_NUMBER, posinf=NO_NUMBER)
    drifts = np.maximum.accumulate(np.maximum(means, 0.0))
    errors = [step.error for step in measured]
    smooth = np.interp([step.error for step in steps], [0.0, *errors], [0.0, *drifts])
    return tuple(Step(step.removed, float(drift)) for step, drift in zip(steps, smooth, strict=True))


def _stored(linear: Linear) -> Iterator[tuple[str, Array]]:
    """The initializers of a map as they are."""
    for value in (linear.matrix.stored, linear.bias):
        if value is not None and value.tensor is not None:
            yield value.name, numpy_helper.to_array(value.tensor)


def _refits(
    projection: Projection, linear: Linear, moment: Moments, steps: Sequence[Step]
) -> Iterator[dict[str, Array]]:
    """For each step new weights for the heads that are left, so that the output stays near what it was."""
    weight, bias = linear.matrix.read(), linear.read_bias()
    mean = moment.x_sum / (moment.total or 1.0)
    for step in steps:
        rows = np.flatnonzero(projection.live_without(step.removed).reshape(-1))
        new = np.zeros_like(weight)
        if len(rows):
            new[rows] = ridge(moment.towards(weight, rows), weight[rows], STRENGTH)
        refit = {linear.matrix.stored.name: linear.matrix.written(new)}
        if bias is not None and linear.bias is not None:
            refit[linear.bias.name] = linear.written_bias(bias + mean @ (weight - new))
        yield refit


def measured_paths(
    view: GraphView,
    sites: Sequence[AttentionSite],
    paths: Mapping[int, Sequence[Sequence[Step]]],
    moments: Mapping[int, Sequence[Moments]],
    evidence: Evidence,
    progress: Progress = silent,
) -> dict[int, tuple[Step, ...]]:
    """`measured_path` for every path of every site, those of one site merged.

    Args:
        view: an annotated view of the model.
        sites: the sites.
        paths: the paths of each, by its index.
        moments: of the contexts of its projections, by its index.
        evidence: what drifts are measured on.
        progress: told what is being done.
    """
    found = {}
    for number, site in enumerate(sites, 1):
        found[site.index] = merged(
            measured_path(view, site, path, moments[site.index], evidence) for path in paths[site.index]
        )
        progress("measuring what cuts cost, site by site", number, len(sites))
    return found
