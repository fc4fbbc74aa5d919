"""Runs the heads silenced at their cores beside the masked reference, and says where the two are not one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.site import Site, caller_demands
from onnxheadprune.edit.submodel import with_stored
from onnxheadprune.errors import InferenceError
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.model.graph.facts import MULTIPLIES
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed, Outputs, narrowed
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.validation.compare import worst
from onnxheadprune.validation.core_masks import Tap, silenced_cores
from onnxheadprune.validation.deployment import Models
from onnxheadprune.validation.rounds import Runner

DRAWN = (Role.FLOATS, Role.IDS, Role.PIXELS, Role.BOOLS)
"""Inputs whose numbers may change places; masks and positions say how the others are meant."""


class SecondMask:
    """The second mask of one validation.

    Attributes:
        problems: why a projection is not the heads' own, one sentence each.
        notes: what could not be looked at.
    """

    def __init__(self, models: Models) -> None:
        """Make the silenced model."""
        self.models, self.planning, self.tolerance = models, models.planning, models.tolerance
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._silenced = silenced_cores(self.planning)
        self.runner: Runner | None = None
        self._without: Session | None = None
        self._loaded = models.masked
        if self._silenced.skipped:
            self.notes.append(f"not silenced at their cores: {', '.join(self._silenced.skipped)}")
        if not self._silenced.any:
            return
        # The masked reference refers to all that the viewed model stores.
        loaded = self._loaded = models.refits.into(models.masked, self._silenced.model)
        self.runner = Runner(lambda: models.session(loaded, "the original silenced at its cores"))

    def ahead(self, feeds: Iterable[Feed]) -> None:
        """Run a round of feeds that `look` will compare."""
        if self.runner is None or self.problems:
            return
        try:
            self.runner.ahead(feeds)
        except InferenceError as error:
            self.notes.append(f"the heads were not silenced at their cores: {error}")
            self.runner = None

    def look(self, feed: Feed, masked: Outputs, names: tuple[str, ...], inputs: tuple[Input, ...]) -> None:
        """Compare both masks on one feed."""
        if self.runner is None or self.problems:
            return
        try:
            outputs = self.runner.run(feed)
        except InferenceError as error:
            self.notes.append(f"the heads were not silenced at their cores: {error}")
            self.runner = None
            return
        left = [tap for tap in self._silenced.taps if tap.rest(outputs)[0].astype(bool).any()]
        if left:
            self._look_again(left, feed, inputs)
            return
        if self._silenced.skipped:
            return  # The masked reference silences those sites too, so the outputs differ.
        shown = tuple(name for name in names if name in outputs and name in masked)
        name, off = worst(outputs, masked, shown) if shown else ("", None)
        if off is None or off.relative <= self._allowed(off.relative, feed, outputs, shown):
            return
        if self._silenced.hidden:
            self.notes.append(
                "silencing the heads where they are computed gives another model than silencing them at the projection,"
                " which may be due to a bias; the projection lies in a body, so there is no telling"
            )
        else:
            self.problems.append(
                f"silencing the heads where they are made is not silencing them at the projection: {name} differs by"
                f" {off.relative:.1e} of its scale, so something else reads the heads, and the projection is not"
                " their own"
            )

    def _allowed(self, error: float, feed: Feed, outputs: Outputs, names: tuple[str, ...]) -> float:
        """The tolerance on a feed."""
        exact, io = self.tolerance.exact, self.planning.io
        if error <= exact:
            return exact
        after = [name for name in map(io.after, names) if name is not None]
        return self.models.sensitivity.allowed(exact, error, feed, narrowed(outputs, io), after)

    def _look_again(self, taps: list[Tap], feed: Feed, inputs: tuple[Input, ...]) -> None:
        """Check whether what is left of silenced heads depends on the input. A bias does not, and is theirs."""
        other = _shuffled(feed, inputs)
        try:
            if self._without is None:
                model = _without_dead_weights(self._loaded, self.planning)
                self._without = self.models.session(model, "the original without the heads' weights")
            first, second = self._without.run(feed), self._without.run(other)
        except InferenceError as error:
            self.notes.append(f"what silenced heads leave behind was not compared: {error}")
            return
        for tap in taps:
            (one, scale), (two, _) = tap.rest(first), tap.rest(second)
            with np.errstate(invalid="ignore"):
                moved = np.abs(one.astype(np.float64) - two.astype(np.float64)).max(initial=0.0)
            if np.isfinite(moved) and moved > self.tolerance.exact * scale:
                self.problems.append(
                    f"{tap.projection} reads more than the heads of {tap.site}: with them silenced where they are"
                    f" made, {moved / scale:.1e} of its input still changes there with the inputs of the model, so the"
                    " projection is not the heads' own"
                )


def _without_dead_weights(silenced: LoadedModel, planning: Planning) -> LoadedModel:
    """The silenced model with zeros in the layers that make queries, keys, values and gates of the heads.

    Some networks add a convolution of the values to the context; it belongs to the heads like the context itself. So
    does a gate, which else would still let through what a normalisation adds to a silent head.
    """
    stored: dict[str, Array] = {}
    for value, alive in _partly_dead(planning):
        assert value.tensor is not None
        array = stored.get(value.name)
        if array is None:
            array = numpy_helper.to_array(in_memory(value.tensor, silenced.sources))
        mask = alive.aligned(alive.axes, [array.shape[axis] for axis in alive.axes]) != 0
        sizes = [array.shape[axis] if axis in alive.axes else 1 for axis in range(array.ndim)]
        stored[value.name] = np.where(mask.reshape(sizes), array, np.zeros((), array.dtype))
    return replace(silenced, proto=with_stored(silenced.proto, stored))


def _partly_dead(planning: Planning) -> Iterator[tuple[Value, Live]]:
    """Weights before the cores that nobody needs the whole of once the heads are gone, and what is needed."""
    for site in planning.touched:
        if site.unit_cores:
            heads = planning.heads[site.index]
            maps = _weights_before(site)
            handed = caller_demands([site], planning.heads)
            for value, live in sweep(list(site.seeds(heads)), site.movable, handed=handed).narrowed():
                if value in maps and value.scope.parent is None:
                    yield value, live


def _weights_before(site: Site) -> set[Value]:
    """Stored floats of the first layers upstream of a site's cores, and of what their contexts are multiplied with.

    Not those further up: they make the residual stream, and a projection that reads it is not the heads' own.
    """

    def above(value: Value) -> list[Value]:
        node = value.producer
        if node is None:
            return []
        weights = [item for item in node.sources if item.is_constant]
        is_layer = not value.is_constant and contraction_of(node) is not None and weights
        return weights if is_layer else node.sources

    starts = [value for core in site.cores for value in core.sources]
    walk = reachable([*starts, *_gates(site)], above)
    return {value for value in walk if value.tensor is not None and value.elem_type in FLOATS}


def _gates(site: Site) -> list[Value]:
    """The factors of a site's contexts on their way to its projections."""
    last = {projection.node for projection in site.projections}

    def ahead(node: Node) -> list[Node]:
        return [other for other in node.readers if other not in last and contraction_of(other) is None]

    way = list(reachable(site.cores, ahead))
    made = {value for node in way for value in node.outputs}
    factors = [node for node in way if node in MULTIPLIES and node not in site.cores]
    return [value for node in factors for value in node.sources if value not in made]


def _shuffled(feed: Feed, inputs: tuple[Input, ...]) -> Feed:
    """The same numbers in other places."""
    random = np.random.default_rng(0)
    drawn = {item.name for item in inputs if item.role in DRAWN}
    return {
        name: random.permutation(value.reshape(-1)).reshape(value.shape) if name in drawn else value
        for name, value in feed.items()
    }
