"""Closed-form compensation: the remaining weights are refitted to replace the removed heads.

The linear layers after the first cut are refitted in graph order, on the inputs of the pruned model, by least
squares on Gram matrices, without gradients or training (Kwon et al. 2022 tune one mask value per head this way; here
it is all weights of the layer). Layers that write to the residual stream aim at the original's stream: the output
projections of the sites that lose heads, together with the values of the remaining heads, and the projections of the
feed-forward layers. Layers inside a feed-forward layer aim at their outputs in the original.

The result is the *original* with new contents of some initializers; the rows of removed heads are as they
were. Pruning it is as exact as pruning the original, and is proven in the same way.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from onnxheadprune.attention.quantized import Grid
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.boundaries import Boundaries, Stage
from onnxheadprune.choosing.activations.chain import Cut, changed_by_cut
from onnxheadprune.choosing.activations.contexts import finite, missing
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import LARGE, Moments, NotFiniteError, Rows, gather
from onnxheadprune.choosing.activations.parts import Parts, Running
from onnxheadprune.choosing.activations.store import Store
from onnxheadprune.choosing.activations.walk import Variant, Walk
from onnxheadprune.choosing.compensation.fit import Fit, fit, fit_values
from onnxheadprune.choosing.compensation.record import Compensation, Refit
from onnxheadprune.choosing.compensation.targets import RowsOf, Target
from onnxheadprune.choosing.compensation.tasks import Run, Task, Which, attention_maps, tasks
from onnxheadprune.choosing.compensation.values import FEATURES, Context, Values
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import token_rows
from onnxheadprune.data.splicing import MOST_WORK, as_much_as_pays, with_spliced
from onnxheadprune.edit.submodel import NOTHING
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.runtime import Array, Provider
from onnxheadprune.runtime.memory_limits import give_back
from onnxheadprune.runtime.progress import Note, Progress, silent
from onnxheadprune.runtime.workers import algebra_threads

Read: TypeAlias = Callable[[int], "list[Rows | None]"]
"""Gives the rows of a feed."""
ROWS_OF_LINKS = 1024
"""Positions that are looked at to tell what lies between two additions."""

WIDE = 1.5
"""Outputs per input, beyond which products of inputs alone are less work than products of inputs with targets."""


class _OtherPositionsError(Exception):
    """The pruned model processes other positions than the original."""


class Pair:
    """Both models, run layer by layer.

    Attributes:
        walk: runs them from one layer to the next.
    """

    def __init__(
        self,
        parts: Parts,
        boundaries: Boundaries,
        nodes: Iterable[Node],
        data: tuple[Calibration, Calibration],
        changed: Mapping[str, Array],
    ) -> None:
        """Start both models at their inputs.

        Args:
            changed: contents of stored tensors that differ in the pruned model; each refit adds to it.
        """
        self._learn, held = data
        feeds = (*self._learn.feeds, *held.feeds)
        self.walk = Walk(parts, boundaries, feeds, self._learn.source)
        self._pruned = Variant(boundaries.changed)
        self.walk.start(self._pruned, ((at, NOTHING) for at in range(len(feeds))), changed)
        self._running = Running(parts, nodes, feeds, self._learn.source)
        self._known: tuple[tuple[object, ...], tuple[Moments, Moments]] | None = None

    @property
    def _data(self) -> tuple[range, range]:
        """Indices of the feeds to learn from, and of the held-out feeds."""
        first = len(self._learn.feeds)
        return range(first), range(first, len(self.walk.feeds))

    def runs(self, linear: Linear) -> bool:
        """Return whether a layer runs on a feed of both parts of the data."""
        return all(self._running.is_reached(linear.node, part) for part in self._data)

    def target(self, linear: Linear, run: Run | None) -> Target:
        """Return the target of a layer; where possible, the one that replaces the removed run after it."""
        if run is None:
            return Target(linear)
        read = self.walk.read(run.passed, self._pruned)
        feeds: list[RowsOf] = []
        count = 0
        for at in self._data[0]:
            if not self._running.reaches(at, linear.node):
                continue
            feeds.append(self._reader(read(at), linear, at))
            count += len(feeds[-1](linear.out))
            if count >= ROWS_OF_LINKS:
                break
        return Target.standing_in(linear, run, feeds)

    def values(
        self, target: Target, makers: Sequence[Linear], heads: tuple[Sequence[int], ...]
    ) -> Values | None:
        """The linear layer that computes the values of some heads, None if it cannot be refitted alone."""
        linear = target.linear
        return Values.of(
            self.walk,
            self._pruned,
            makers,
            Context(linear.source, linear.axes, heads),
            self._learn,
            target.here,
            lambda feed: self._running.reaches(feed, linear.node),
        )

    def moments(
        self, target: Target, rows: Sequence[int], values: Values | None
    ) -> tuple[Moments, Moments] | None:
        """Moments of a layer's inputs in the pruned model and of their target outputs.

        Returns:
            Moments of the data to learn from, and of the held-out data; None if the pruned model processes other
            positions than the original.
        """
        linear = target.linear
        if values is None and len(rows) == linear.matrix.rows and _gives_more_than_it_reads(target):
            found = self._of_inputs(linear)
            weight, bias = linear.matrix.read(), linear.read_bias()
            return None if found is None else (found[0].through(weight, bias), found[1].through(weight, bias))
        self.forget()
        features = 0 if values is None else values.layout.features
        read = self._with_targets(target, list(rows), values)
        return self._gathered(linear, len(rows) + features, linear.matrix.columns, read)

    def forget(self) -> None:
        """Forget all inputs, since layers before them have changed."""
        self._known = None

    def _of_inputs(self, linear: Linear) -> tuple[Moments, Moments] | None:
        """Moments of inputs of a map in both models, [x, z]. Maps that read the same one after the other share them."""
        key = linear.source, linear.axes, *map(tuple, self._reached(linear))
        if self._known is not None and self._known[0] == key:
            return self._known[1]
        self.forget()
        found = self._gathered(linear, 2 * linear.matrix.rows, 0, self._inputs(linear))
        self._known = None if found is None else (key, found)
        return found

    def _inputs(self, linear: Linear) -> Read:
        """Read inputs of a layer in the pruned model and in the original, side by side."""
        original, current = self.walk.original([linear.source]), self.walk.read([linear.source], self._pruned)

        def read(at: int) -> list[Rows | None]:
            z = self._rows(original(at), linear.source, linear.axes, at)
            x = self._rows(current(at), linear.source, linear.axes, at)
            if len(x) != len(z):
                raise _OtherPositionsError
            return [(np.concatenate([x, z], axis=1), None, None)]

        return read

    def _with_targets(self, target: Target, columns: list[int], values: Values | None) -> Read:
        """Read inputs of a layer in the pruned model, and its target outputs for them."""
        linear = target.linear
        original = self.walk.original(target.there)
        current = (
            self.walk.read([linear.source, *target.here], self._pruned) if values is None else values.read
        )

        def read(at: int) -> list[Rows | None]:
            here = current(at)
            y, weights = target.rows(self._reader(original(at), linear, at), self._reader(here, linear, at))
            x = self._rows(here, linear.source, linear.axes, at)
            if len(x) != len(y):
                raise _OtherPositionsError
            x = x[:, columns] if len(columns) < x.shape[1] else x
            if values is not None:
                x = np.concatenate([x, values.features(here, self.walk.feeds[at], self._learn)], axis=1)
            return [(x, y, weights)]

        return read

    def _gathered(
        self, linear: Linear, features: int, targets: int, read: Read
    ) -> tuple[Moments, Moments] | None:
        """Moments of both parts of the data, None if the two models process other positions."""
        found: list[Moments] = []
        workers = self.walk.parts.workers
        for reached in self._reached(linear):
            empty = Moments(features, targets)
            try:
                found += gather([empty], workers.each(read, reached), workers)
            except _OtherPositionsError:
                return None
        return found[0], found[1]

    def _reached(self, linear: Linear) -> list[list[int]]:
        """The feeds of both parts of the data that run a layer."""
        return [[at for at in part if self._running.reaches(at, linear.node)] for part in self._data]

    def _reader(self, values: Mapping[str, Array], linear: Linear, at: int) -> RowsOf:
        """Return a function that arranges values as rows of a layer's outputs."""
        return lambda value: self._rows(values, value, linear.out_axes, at)

    def _rows(self, outputs: Mapping[str, Array], value: Value, axes: Sequence[int], at: int) -> Array:
        feed = self.walk.feeds[at]
        return finite(token_rows(outputs[value.name], axes, feed, self._learn.inputs), value)


def _gives_more_than_it_reads(target: Target) -> bool:
    """Return whether moments of inputs alone are enough for a layer.

    Its outputs in the original are products of its inputs there. So outputs wider than inputs need not be computed
    row by row.
    """
    linear = target.linear
    # What is quantized on its way into the product is something else there.
    is_product = linear.source in linear.node.inputs and not linear.matrix.is_quantized
    return target.is_what_it_gave and is_product and linear.matrix.columns > WIDE * linear.matrix.rows


IN_MEMORY = 2**26
"""Bytes of refitted weights that stay in memory. A model that is made with them has a copy of each; what lies in a file
it reads when it needs it."""


@dataclass(frozen=True)
class Refitting:
    """The settings of a refit."""

    which: Which = "all"  # which layers are refitted
    # the most multiply-adds of all layers on all positions; bounds the amount of data
    most: float = MOST_WORK


def compensate(
    view: GraphView,
    sites: Sequence[Site],
    heads: Mapping[int, Iterable[int]],
    data: Calibration,
    provider: Provider,
    *,
    how: Refitting = Refitting(),
    progress: Progress = silent,
) -> Compensation:
    """Refit the remaining weights, layer by layer, on already pruned inputs.

    Args:
        view: of the model; where layers are removed, of its form with switches, of which the sites are, too.
        data: calibration data, of which as much is used as the widest layer wants; a part of it is held out to choose
            the ridge with. Of token sequences the rest is spliced into more, as far as it is little for that.
    """
    readers = attention_maps(sites)
    todo = tasks(view, sites, heads, readers, how.which)
    shared = {node for node, count in readers.items() if count > 1}
    wide = _widest(todo)
    data = as_much_as_pays(data, max(map(_unknowns, todo), default=0), _weights_of(todo), how.most)
    routed = [(site, tuple(heads.get(site.index, ()))) for site in sites if not site.contexts]
    parts = Parts(view, provider, sites=sites)
    work = _Work(parts, todo, shared, data, _silent_maps(sites, heads), routed, how.most)
    if work.too_few is not None:
        few = missing(*work.too_few, data)
        progress(Note(f"{few}; a stronger ridge is used there, or biases alone are adjusted"), 0, 0)
    with algebra_threads(wide):
        # With a projection the values of its heads may be refitted, too.
        most = len(todo) + sum(map(bool, work.makers.values()))
        for task in todo:
            work.refit(task)
            if wide >= LARGE:
                # Moments are large and freed in pieces: what the heap keeps of them would add up.
                give_back()
            progress("refitting, layer by layer", len(work.refits), most)
    levels = any(task.linear is not None and task.linear.matrix.is_quantized for task in work.makers)
    return Compensation(data.fingerprint, data.count, work.stored, tuple(work.refits), quantized=levels)


class _Work:
    """The state of a refit that visits layer after layer in both models, and its results so far."""

    def __init__(
        self,
        parts: Parts,
        todo: Sequence[Task],
        shared: Collection[int],
        data: Calibration,
        silent: Sequence[Linear],
        routed: Sequence[tuple[Site, tuple[int, ...]]],
        most: float,
    ) -> None:
        learn, held = data.split()
        learn = with_spliced(learn, _widest(todo), _weights_of(todo), work=most)
        # New values for a layer that feeds the attention of several projections would change the others.
        self.makers = {task: task.value_maps(shared) for task in todo if task.obstacle() is None}
        # Where inputs do not tell, nobody knows before a pass.
        positions, inputs = learn.positions, max(map(_inputs_of, self.makers), default=0)
        self.too_few = None if positions is None or positions >= inputs else (positions, inputs)
        """Positions to learn from, and inputs of the widest layer, which are more; None where they are enough."""
        self.stages = {task: at for at, task in enumerate(self.makers)}
        stages = [_stage(task, makers) for task, makers in self.makers.items()]
        if stages:
            # Sites that are removed as a whole are silent from the start, routers choose among what stays, and layers
            # are bypassed.
            first = (
                *(item.node for item in silent),
                *(node for site, gone in routed if gone for node in changed_by_cut(site)),
            )
            stages[0] = replace(stages[0], changes=(*first, *stages[0].changes))
        boundaries = Boundaries(parts.view, stages)
        self.stored: MutableMapping[str, Array] = Store(IN_MEMORY)
        self.silenced: MutableMapping[str, Array] = ChainMap(Store[str](IN_MEMORY), self.stored)
        """The same with the rows of removed heads zero: the pruned model in the original's shapes."""
        for item in silent:
            zeros = np.zeros((item.matrix.rows, item.matrix.columns))
            self.silenced[item.matrix.stored.name] = item.matrix.written(zeros)
        for site, gone in routed:
            self.silenced.update(Cut.of(site, gone).weights)
        nodes = [task.linear.node for task in self.makers if task.linear is not None]
        self.pair = Pair(parts, boundaries, nodes, (learn, held), self.silenced)
        self.refits: list[Refit] = []

    def refit(self, task: Task) -> None:
        linear = task.linear
        reason = task.obstacle()
        if reason is None and linear is not None and not self.pair.runs(linear):
            reason = "no sample of the data runs it, or none of those that are held out"
        if reason is None and linear is not None:
            self.pair.walk.enter(self.stages[task])
            try:
                reason = self._fitted(task, linear)
            except NotFiniteError as error:
                reason = str(error)
            if reason is None:
                return
        self._leave(task, reason)

    def _fitted(self, task: Task, linear: Linear) -> str | None:
        """Refit a layer, or return the reason why it stays unchanged."""
        target = self.pair.target(linear, task.run)
        if target.run is None and task.only_stands_in:
            return f"between it and {_listed(task)}, which goes, lies more than a normalisation"
        rows = list(range(linear.matrix.rows) if task.kept is None else task.kept)
        values = self._values(task, target)
        found = self.pair.moments(target, rows, values)
        if found is None:
            return "it sees other positions than in the original"
        return self._fit(task, target, rows, values, *found)

    def _leave(self, task: Task, reason: str | None) -> None:
        """Record why a layer stays unchanged."""
        self.refits.append(Refit(task.name, task.site_index, None, 0.0, 0.0, reason))

    def _fit(
        self,
        task: Task,
        target: Target,
        rows: Sequence[int],
        values: Values | None,
        learned: Moments,
        held: Moments,
    ) -> str | None:
        """Fit a layer to moments, or return the reason why it stays unchanged."""
        linear, run = target.linear, target.run
        weight, count, scale = linear.matrix.read(), len(rows), held.variance() or 1.0
        grid = linear.matrix.grid()
        kept = None if grid is None else grid.of_rows(rows)
        first = last = fit(
            learned.first(count), held.first(count), weight[rows], linear.read_bias(), grid=kept
        )
        if task.only_stands_in and not first.after < first.before:
            return f"on held-out data it cannot stand in for {_listed(task)}"
        if values is not None and learned.count >= len(learned.x_sum):
            better = _with_values(values, first, learned, held, kept)
            if better is not None:
                change, last = better
                self._keep_values(values, change)
                name = values.linear.node.label
                self.refits.append(
                    Refit(name, task.site_index, None, first.after / scale, last.after / scale)
                )
        self._keep(linear, rows, weight, last)
        found = (first.before / scale, last.after / scale)
        keys = () if run is None else run.keys
        self.refits.append(
            Refit(
                task.name,
                task.site_index,
                first.strength,
                *found,
                kept=last.lost,
                stands_in=keys,
                limited=_limited(learned, count, first),
            )
        )
        return None

    def _values(self, task: Task, target: Target) -> Values | None:
        """The layer that computes the values of the remaining heads, if it can change alone."""
        if task.projection is None:
            return None
        heads = tuple(task.projection.channels[head] for head in task.heads)
        return self.pair.values(target, self.makers[task], heads)

    def _keep_values(self, values: Values, change: Array) -> None:
        matrix = values.linear.matrix
        whole = matrix.read()
        whole[:, values.used] += values.basis @ change
        self.stored[matrix.stored.name] = matrix.written(whole)
        self.pair.forget()

    def _keep(self, linear: Linear, rows: Sequence[int], weight: Array, found: Fit) -> None:
        name = linear.matrix.stored.name
        whole = weight.copy()
        whole[list(rows)] = found.weight
        self.stored[name] = linear.matrix.written(whole)
        if len(rows) < len(weight):
            silenced = np.zeros_like(weight)
            silenced[list(rows)] = found.weight
            self.silenced[name] = linear.matrix.written(silenced)
        if linear.bias is not None and found.bias is not None:
            self.stored[linear.bias.stored.name] = linear.written_bias(found.bias)


def _widest(todo: Sequence[Task]) -> int:
    return max((task.linear.matrix.rows for task in todo if task.linear is not None), default=0)


def _unknowns(task: Task) -> int:
    """The number of inputs of a layer, features for refitting values included."""
    if task.linear is None:
        return 0
    rows = task.linear.matrix.rows
    return rows if task.projection is None else rows + min(FEATURES, len(task.heads) * rows)


def _inputs_of(task: Task) -> int:
    """The number of remaining inputs of a layer."""
    assert task.linear is not None
    return task.linear.matrix.rows if task.kept is None else len(task.kept)


def _weights_of(todo: Sequence[Task]) -> int:
    return sum(math.prod(task.linear.matrix.shape) for task in todo if task.linear is not None)


def _silent_maps(sites: Sequence[Site], heads: Mapping[int, Iterable[int]]) -> list[Linear]:
    """The projections of sites that lose all their units, where their weights can be written."""
    gone = [site for site in sites if len(set(heads.get(site.index, ()))) == site.num_units]
    found = (Linear.of(projection) for site in gone for projection in site.projections)
    return [item for item in found if item is not None and not item.matrix.shared]


def _stage(task: Task, makers: Sequence[Linear]) -> Stage:
    """The values at which work on a layer begins: its inputs, or those of the layer that computes the values."""
    linear = task.linear
    assert linear is not None
    other = () if linear.other is None else (linear.other,)
    return Stage(
        tuple(item.source for item in makers) or (linear.source,),
        (linear.node, *(item.node for item in makers)),
        (
            linear.source,
            linear.out,
            *other,
            *(() if task.run is None else task.run.values),
            *(item.source for item in makers),
            *(item.out for item in makers),
        ),
    )


def _listed(task: Task) -> str:
    """Return the removed sublayers that a layer replaces, for a sentence."""
    return ", ".join(task.run.keys) if task.run is not None else ""


def _limited(learned: Moments, inputs: int, first: Fit) -> str | None:
    """Return why only some ridge strengths were tried for a layer, None if all were."""
    if learned.count >= inputs:
        return None
    done = "biases alone are adjusted" if first.strength is None else "a stronger ridge is used"
    return f"{learned.count:,} positions are few for its {inputs:,} inputs, so {done}"


def _with_values(
    values: Values, first: Fit, learned: Moments, held: Moments, grid: Grid | None
) -> tuple[Array, Fit] | None:
    """A change of the values and the projection's fit after it, None if held-out rows gain nothing from it."""
    change = fit_values(learned, held, first.weight, values.layout)
    if change is None:
        return None
    mixing = values.layout.mixing(change)
    again = fit(learned.mixed(mixing), held.mixed(mixing), first.weight, first.bias, grid=grid)
    return (change, again) if again.after < first.after else None
