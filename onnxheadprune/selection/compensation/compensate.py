"""Closed-form compensation: what is left takes over the work of the heads that go.

The linear maps behind the first cut are refitted in graph order, on the inputs they will really get, by least
squares on Gram matrices, without gradients or training (Kwon et al. 2022 tune one mask value per head this way; here
it is all weights of the map). Maps that write to the residual stream aim at the original's stream: the output
projections of the sites that lose heads, together with the values of the heads that stay, and the projections of the
feed-forward layers. Maps inside a feed-forward layer aim at what they put out in the original.

The result is the *original* with other numbers in some initializers; the rows of removed heads are as they
were. Pruning it is as exact as pruning the original, and is proven in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from onnx import ModelProto

from onnxheadprune.attention.matrices import Array
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.edit.extract import tapped
from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.selection.activations.contexts import finite, run_feed
from onnxheadprune.selection.activations.data import Calibration, token_rows
from onnxheadprune.selection.activations.linear import Linear
from onnxheadprune.selection.activations.moments import Moments
from onnxheadprune.selection.compensation.fit import Fit, fit
from onnxheadprune.selection.compensation.result import Compensation, Refit
from onnxheadprune.selection.compensation.tasks import Task, attention_maps, tasks
from onnxheadprune.selection.compensation.value_fit import fit_values
from onnxheadprune.selection.compensation.values import Values, values_of


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
    readers = attention_maps(sites)
    work = _Work(view, {node for node, count in readers.items() if count > 1}, data, provider)
    todo = tasks(view, sites, heads, readers, other_maps)
    for number, task in enumerate(todo, 1):
        work.refit(task)
        progress("compensating, map by map", number, len(todo))
    return Compensation(work.stored, tuple(work.refits), data.fingerprint, data.count, work.silenced)


class _Work:
    def __init__(
        self, view: GraphView, shared: Collection[int], data: Calibration, provider: Provider
    ) -> None:
        self.view = view
        self.shared = shared
        """Maps that feed the attention of several projections: new values for one would change the others."""
        self.learn, self.held = data.split()
        self.source = data.source
        self.provider = provider
        self.stored: dict[str, Array] = {}
        self.silenced: dict[str, Array] = {}
        """The same with the rows of removed heads zero: the pruned model in the original's shapes."""
        self.refits: list[Refit] = []

    def refit(self, task: Task) -> None:
        linear = task.linear
        reason = task.obstacle()
        if reason is None and linear is not None:
            rows = list(range(linear.matrix.rows) if task.kept is None else task.kept)
            values = self._values(task, linear)
            found = self._moments(linear, rows, values)
            reason = _too_few(found, rows)
            if reason is None and found is not None:
                self._fit(task, linear, rows, values, *found)
                return
            if found is not None and task.site is not None:
                raise UsageError(
                    f"{self.source} gives {found[0].count} positions to learn from, but {task.name} has {len(rows)}"
                    " inputs; give more data, or say --no-compensate"
                )
        self.refits.append(Refit(task.name, task.site_index, None, 0.0, 0.0, reason))

    def _fit(
        self,
        task: Task,
        linear: Linear,
        rows: Sequence[int],
        values: Values | None,
        learned: Moments,
        held: Moments,
    ) -> None:
        weight, count, scale = linear.matrix.read(), len(rows), held.variance() or 1.0
        first = last = fit(learned.first(count), held.first(count), weight[rows], linear.read_bias())
        if values is not None and learned.count >= len(learned.x_sum):
            better = _with_values(values, first, learned, held)
            if better is not None:
                change, last = better
                self._keep_values(values, change)
                name = values.linear.node.label
                self.refits.append(
                    Refit(name, task.site_index, None, first.after / scale, last.after / scale)
                )
        self._keep(linear, rows, weight, last)
        self.refits.append(
            Refit(task.name, task.site_index, first.strength, first.before / scale, last.after / scale)
        )

    def _values(self, task: Task, linear: Linear) -> Values | None:
        """The map that makes the values of the heads that stay, where it can change by itself."""
        site, projection = task.site, task.projection
        if site is None or projection is None or len(site.projections) != 1:
            return None
        return values_of(
            self.view,
            linear.source,
            linear.axes,
            [projection.channels[head] for head in task.heads],
            self.learn,
            self.provider,
            self.silenced,
            [] if linear.other is None else [linear.other],
            self.shared,
        )

    def _moments(
        self, linear: Linear, rows: Sequence[int], values: Values | None
    ) -> tuple[Moments, Moments] | None:
        """Inputs of the map as the pruned model has them, and what it should make of them.

        Of the rows to learn from, and of those that are held out; None if the pruned model sees other positions
        than the original. With `values` their features follow the inputs.
        """
        other = [] if linear.other is None else [linear.other]
        model, columns = self.view.model, list(rows)
        original = self._session(tapped(model, [linear.out, *other]), "the original model")
        current = (
            self._session(tapped(model, [linear.source, *other], self.silenced), "the pruned model")
            if values is None
            else values.before
        )
        width = int(np.prod([linear.matrix.shape[axis] for axis in linear.matrix.free]))
        found = []
        for part in (self.learn, self.held):
            moments: Moments | None = None
            for feed in part.feeds:
                there, here = (
                    {**feed, **run_feed(session, feed, part.source)} for session in (original, current)
                )
                target = self._rows(there, linear.out, linear.out_axes, feed, part)
                weights = None
                for value in other:
                    stream = target + self._rows(there, value, linear.out_axes, feed, part)
                    weights = _weights(stream)
                    target = stream - self._rows(here, value, linear.out_axes, feed, part)
                x = self._rows(here, linear.source, linear.axes, feed, part)
                if len(x) != len(target):
                    return None
                x = x[:, columns] if len(columns) < x.shape[1] else x
                if values is not None:
                    x = np.concatenate([x, values.features(here, feed, part)], axis=1)
                moments = moments or Moments(x.shape[1], width)
                moments.add(x, target, weights)
            assert moments is not None
            found.append(moments)
        return found[0], found[1]

    def _session(self, model: ModelProto, name: str) -> Session:
        return Session(model, self.provider, name=name, optimize=True)

    def _rows(
        self,
        outputs: Mapping[str, Array],
        value: Value,
        axes: Sequence[int],
        feed: Mapping[str, Array],
        part: Calibration,
    ) -> Array:
        return finite(token_rows(outputs[value.name], axes, dict(feed), part.inputs), value)

    def _keep_values(self, values: Values, change: Array) -> None:
        matrix = values.linear.matrix
        whole = matrix.read()
        whole[:, values.used] += values.basis @ change
        self.silenced[matrix.stored.name] = self.stored[matrix.stored.name] = matrix.written(whole)

    def _keep(self, linear: Linear, rows: Sequence[int], weight: Array, found: Fit) -> None:
        name = linear.matrix.stored.name
        silenced, whole = np.zeros_like(weight), weight.copy()
        silenced[list(rows)] = whole[list(rows)] = found.weight
        self.silenced[name], self.stored[name] = linear.matrix.written(silenced), linear.matrix.written(whole)
        if linear.bias is not None and found.bias is not None:
            self.silenced[linear.bias.name] = self.stored[linear.bias.name] = linear.written_bias(found.bias)


def _too_few(found: tuple[Moments, Moments] | None, rows: Sequence[int]) -> str | None:
    if found is None:
        return "it sees other positions than in the original"
    if found[0].count < len(rows):
        return f"{found[0].count} positions are too few for its {len(rows)} inputs"
    return None


def _with_values(values: Values, first: Fit, learned: Moments, held: Moments) -> tuple[Array, Fit] | None:
    """A change of the values and the projection's fit behind it, None if held-out rows gain nothing from it."""
    change = fit_values(learned, held, first.weight, values.layout)
    if change is None:
        return None
    mixing = values.layout.mixing(change)
    again = fit(learned.mixed(mixing), held.mixed(mixing), first.weight, first.bias)
    return (change, again) if again.after < first.after else None


def _weights(stream: Array) -> Array:
    """Rows of the residual stream count by their inverse variance: the normalisation behind divides by it.

    Otherwise a few positions with huge activations (separators, sinks) decide alone.
    """
    variance = stream.var(axis=1, dtype=np.float64)
    weights: Array = 1.0 / np.maximum(variance, 1e-6 * float(variance.mean()) + 1e-30)
    return weights
