"""Closed-form compensation: what is left takes over the work of the heads that go.

Every linear map that writes to the residual stream behind the first cut is refitted in graph order, on the
inputs it will really get, so that the stream comes as close to the original's as it can: first the output
projections of the sites that lose heads, then the projections of the feed-forward layers between them. Least
squares on Gram matrices (Kwon et al. 2022 tune one mask value per head this way; here it is all weights of
the map), without gradients or training.

The result is the *original* with other numbers in some initializers; the rows of removed heads are as they
were. Pruning it is as exact as pruning the original, and is proven in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxheadprune.calibration.contexts import Progress, finite, run_feed, silent
from onnxheadprune.calibration.data import Calibration, token_rows
from onnxheadprune.calibration.linear import Linear, linear_of, linears
from onnxheadprune.calibration.moments import Moments
from onnxheadprune.calibration.taps import tapped
from onnxheadprune.calibration.weights import Array
from onnxheadprune.compensation.fit import Fit, fit
from onnxheadprune.errors import UsageError
from onnxheadprune.graph.view import GraphView, Value
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.sites.site import AttentionSite

Stored = dict[str, Array]


@dataclass(frozen=True)
class Refit:
    """What compensation did to one linear map.

    Attributes:
        node: its name.
        site: index of the site whose projection it is, None for another map.
        strength: ridge strength, None if only the bias moved or nothing did.
        before: held-out error of the stream without the refit, as a share of the original's variance there.
        after: the same with it.
        skipped: why it was left as it is, None if it was refitted.
    """

    node: str
    site: int | None
    strength: float | None
    before: float
    after: float
    skipped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "node": self.node,
            "site": self.site,
            "strength": self.strength,
            "before": self.before,
            "after": self.after,
            "skipped": self.skipped,
        }


@dataclass(frozen=True, eq=False)
class Compensation:
    """New contents of initializers of the original, and how they came about.

    Attributes:
        stored: contents by initializer name, in the original's shapes and types.
        refits: what was done, in graph order.
        data: fingerprint of the calibration data.
        samples: how many samples that were.
        silenced: the same with the rows of removed heads zero: the pruned model in the original's shapes.
    """

    stored: Mapping[str, Array]
    refits: tuple[Refit, ...]
    data: str
    samples: int
    silenced: Mapping[str, Array] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the numbers themselves."""
        return {
            "data": self.data,
            "samples": self.samples,
            "tensors": sorted(self.stored),
            "refits": [item.to_dict() for item in self.refits],
        }


def compensate(
    view: GraphView,
    sites: Sequence[AttentionSite],
    heads: Mapping[int, Iterable[int]],
    data: Calibration,
    provider: Provider,
    *,
    other_maps: bool = True,
    progress: Progress = silent,
) -> Compensation:
    """Refits what is left, layer by layer, on already pruned inputs.

    Args:
        view: an annotated view of the original.
        sites: its sites.
        heads: present head indices that go, per site index.
        data: calibration data; a part of it is held out to choose the ridge with.
        provider: where to run.
        other_maps: refit the maps between the sites too, not only the sites' own projections.
        progress: told after each map.

    Raises:
        UsageError: if the data does not run, or has fewer positions than a map has inputs.
    """
    work = _Work(view, data, provider)
    tasks = _tasks(view, sites, heads, other_maps)
    for number, task in enumerate(tasks, 1):
        work.refit(task)
        progress("compensating, map by map", number, len(tasks))
    return Compensation(work.stored, tuple(work.refits), data.fingerprint, data.count, work.silenced)


@dataclass(frozen=True, eq=False)
class _Task:
    name: str
    linear: Linear | None
    site: AttentionSite | None
    kept: tuple[int, ...] | None
    """Rows of the matrix that stay, None for all."""


def _tasks(
    view: GraphView, sites: Sequence[AttentionSite], heads: Mapping[int, Iterable[int]], other_maps: bool
) -> list[_Task]:
    """The maps to refit, in graph order: those behind the first cut, except in sites that go as a whole."""
    found: dict[int, _Task] = {}
    for site in sites:
        gone = tuple(heads.get(site.index, ()))
        for projection in site.projections:
            if gone:
                kept = np.flatnonzero(projection.live_without(gone).reshape(-1))
                if not len(kept):
                    continue
                linear = linear_of(projection)
                found[projection.node.index] = _Task(
                    projection.node.label, linear, site, tuple(kept.tolist())
                )
    first = min(found, default=0)
    own = {projection.node.index for site in sites for projection in site.projections}
    if other_maps and found:
        for linear in linears(view):
            at = linear.node.index
            if at > first and (at not in own or at not in found) and not _whole(at, sites, heads):
                found[at] = _Task(linear.node.label, linear, None, None)
    return [found[index] for index in sorted(found)]


def _whole(index: int, sites: Sequence[AttentionSite], heads: Mapping[int, Iterable[int]]) -> bool:
    """Whether a node is the projection of a site that loses all of its heads."""
    return any(
        projection.node.index == index and len(tuple(heads.get(site.index, ()))) == site.num_heads
        for site in sites
        for projection in site.projections
    )


class _Work:
    def __init__(self, view: GraphView, data: Calibration, provider: Provider) -> None:
        self.view = view
        self.learn, self.held = data.split()
        self.source = data.source
        self.provider = provider
        self.stored: Stored = {}
        self.silenced: Stored = {}
        """The same with the rows of removed heads zero: the pruned model in the original's shapes."""
        self.refits: list[Refit] = []

    def refit(self, task: _Task) -> None:
        linear, site = task.linear, None if task.site is None else task.site.index
        obstacle = self._obstacle(task)
        if obstacle is not None or linear is None:
            self.refits.append(
                Refit(task.name, site, None, 0.0, 0.0, obstacle or "its weights cannot be rewritten")
            )
            return
        weight = linear.matrix.read()
        bias = linear.read_bias()
        rows = range(len(weight)) if task.kept is None else task.kept
        learned, held = self._moments(linear, rows)
        if learned.count < len(rows) and task.site is None:
            few = f"{learned.count} positions are too few for its {len(rows)} inputs"
            self.refits.append(Refit(task.name, site, None, 0.0, 0.0, few))
            return
        if learned.count < len(rows):
            raise UsageError(
                f"{self.source} gives {learned.count} positions to learn from, but {task.name} has {len(rows)}"
                " inputs; give more data, or say --no-compensate"
            )
        found = fit(learned, held, weight[list(rows)], bias)
        self._keep(linear, rows, weight, found)
        scale = held.variance() or 1.0
        self.refits.append(Refit(task.name, site, found.strength, found.before / scale, found.after / scale))

    def _obstacle(self, task: _Task) -> str | None:
        linear = task.linear
        if linear is None:
            return "its weights are stored in a form that cannot be rewritten"
        if linear.matrix.shared:
            return "its weights are shared with another node"
        if any(value.scope.parent is not None for value in (linear.source, linear.out)):
            return "it lives inside the body of a control-flow operator"
        return None

    def _moments(self, linear: Linear, rows: Sequence[int]) -> tuple[Moments, Moments]:
        """Inputs of the map as the pruned model has them, and what it should make of them.

        Of the rows to learn from, and of those that are held out.
        """
        other = [] if linear.other is None else [linear.other]
        model, columns = self.view.model, list(rows)
        original = Session(
            tapped(model, [linear.out, *other]), self.provider, name="the original model", optimize=True
        )
        current = Session(
            tapped(model, [linear.source, *other], self.silenced),
            self.provider,
            name="the pruned model",
            optimize=True,
        )
        width = int(np.prod([linear.matrix.shape[axis] for axis in linear.matrix.free]))
        found = []
        for part in (self.learn, self.held):
            moments = Moments(len(rows), width)
            for feed in part.feeds:
                there, here = (run_feed(session, feed, part.source) for session in (original, current))
                target = self._rows(there, linear.out, linear.out_axes, feed, part)
                weights = None
                for value in other:
                    stream = target + self._rows(there, value, linear.out_axes, feed, part)
                    weights = _weights(stream)
                    target = stream - self._rows(here, value, linear.out_axes, feed, part)
                x = self._rows(here, linear.source, linear.axes, feed, part)
                moments.add(x[:, columns] if len(columns) < x.shape[1] else x, target, weights)
            found.append(moments)
        return found[0], found[1]

    def _rows(
        self,
        outputs: Mapping[str, Array],
        value: Value,
        axes: Sequence[int],
        feed: Mapping[str, Array],
        part: Calibration,
    ) -> Array:
        return finite(token_rows(outputs[value.name], axes, dict(feed), part.inputs), value)

    def _keep(self, linear: Linear, rows: Sequence[int], weight: Array, found: Fit) -> None:
        name = linear.matrix.stored.name
        silenced, whole = np.zeros_like(weight), weight.copy()
        silenced[list(rows)] = whole[list(rows)] = found.weight
        self.silenced[name], self.stored[name] = linear.matrix.written(silenced), linear.matrix.written(whole)
        if linear.bias is not None and found.bias is not None:
            self.silenced[linear.bias.name] = self.stored[linear.bias.name] = linear.written_bias(found.bias)


def _weights(stream: Array) -> Array:
    """Rows of the residual stream count by their inverse variance: the normalisation behind divides by it.

    Otherwise a few positions with huge activations (separators, sinks) decide alone.
    """
    variance = stream.var(axis=1, dtype=np.float64)
    weights: Array = 1.0 / np.maximum(variance, 1e-6 * float(variance.mean()) + 1e-30)
    return weights
