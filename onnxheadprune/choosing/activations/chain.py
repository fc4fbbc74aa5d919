"""The effects of cuts of single sites on a model's outputs, all of them in one pass over its blocks.

Cutting a site changes nothing before its projection. So the model is run once, and what a cut changes leaves
it at the site and goes on beside it through the same blocks. All feeds go through one block after the other, so that
only the weights of one block are in memory.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from onnx import helper

from onnxheadprune.attention.main_graph_copy import choices, off
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.boundaries import Boundaries, Stage
from onnxheadprune.choosing.activations.kept import Kept, Room
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.parts import Parts, context_of, run_feed
from onnxheadprune.choosing.activations.tail import Tail
from onnxheadprune.data.drift import EffectMeter, Measured, Reference
from onnxheadprune.edit.submodel import NOTHING
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed

IN_MEMORY = 2**27
"""Bytes of what enters a block that stay in memory."""
Passed = Callable[[int, int], None]
"""Called with the number of runs of a block that are done, and of all."""
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Cut:
    """Something to try at one site."""

    site: int  # the site's index
    heads: tuple[int, ...]  # present heads that are silent
    # new contents of tensors that the site's projections read, by name
    weights: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, site: Site, units: Iterable[int], weights: Mapping[str, Array] = NOTHING) -> Cut:
        """A site without some units: silent in its contexts, kept from the choice of its router, or bypassed."""
        gone = tuple(sorted(units))
        masks = {gate.mask: gate.alive(gone) for gate in site.gates()} | off(site) if gone else {}
        return cls(site.index, gone if site.contexts else (), {**weights, **masks})


NO_CUT = Cut(-1, ())


@dataclass(frozen=True, eq=False)
class Outcome:
    """The effect of a cut on one feed."""

    feed: int  # its position
    cut: int  # position of the cut
    before: Mapping[str, Array]  # the outputs without the cut, by name
    after: Mapping[str, Array]  # the outputs with it


class Chain:
    """A model in blocks, one per site and one after the last."""

    def __init__(
        self,
        parts: Parts,
        sites: Sequence[Site],
        outputs: Sequence[Value] = (),
        *,
        sampled: bool = False,
        behind: Mapping[int, Sequence[Value]] | None = None,
    ) -> None:
        """Cut the model before every site's projections.

        Args:
            sampled: the last layer of a single output may be computed at a sample of positions.
            behind: values that are computed from what is there at a site, by its index.
        """
        changed = {node for site in sites for node in changed_by_cut(site)} if sampled else set()
        tail = Tail.of(outputs[0]) if sampled and len(outputs) == 1 else None
        self._tail = None if tail is None or changed & set(tail.nodes) else tail
        outputs = outputs if self._tail is None else (self._tail.hidden,)
        self.parts, self.outputs = parts, [value.name for value in outputs]
        self.sites = sorted(sites, key=_place)
        stages: list[Stage] = []
        self._readers: dict[int, tuple[Node, ...]] = {}
        made: tuple[Value, ...] = ()
        for site in self.sites:
            contexts = ends(site)
            readers = tuple(use.node for value in contexts for use in value.consumers)
            stages.append(
                Stage((*contexts, *made), readers, (*contexts, *(behind or {}).get(site.index, ())))
            )
            # What reads the site's weights belongs to its block.
            self._readers[site.index] = tuple(changed_by_cut(site))
            made = tuple(next(filter(None, node.outputs)) for node in self._readers[site.index])
        self._places = Boundaries(parts.view, stages, outputs)
        self._altered = [self._places.changed_by(stage) for stage in stages]
        self._order = {site.index: place for place, site in enumerate(self.sites)}
        self._sessions: dict[tuple[object, ...], Session | None] = {}
        self._making = threading.Lock()
        """Held by who makes a session."""

    def contexts(
        self, feeds: Sequence[Feed], source: str
    ) -> Iterator[tuple[Site, Iterator[Mapping[str, Array]]]]:
        """For each site its contexts, feed by feed, among other values. Each site's are asked for before the next."""
        kept = Kept(Room(IN_MEMORY))
        for place, site in enumerate(self.sites):
            kept = self._moved(place, kept, feeds, (), source)

            def read(at: int, place: int = place, kept: Kept = kept) -> Mapping[str, Array]:
                return self._contexts(place, feeds[at] | kept.of((None, at)), source)

            yield site, self.parts.workers.each(read, range(len(feeds)))

    def outcomes(
        self,
        cuts: Sequence[Cut],
        feeds: Sequence[Feed],
        source: str,
        looked: Callable[[Outcome], Found],
        passed: Passed = lambda _done, _of: None,
    ) -> Iterator[Found]:
        """Yield what is found in the outputs with each of the cuts for each feed, those without any beside them.

        Args:
            looked: looks at the outputs, which are too many to keep. Several threads call it.
        """
        kept = Kept(Room(IN_MEMORY))
        last = len(self.sites)
        runs = [1 + sum(self._order[cut.site] < place for cut in cuts) for place in range(last + 1)]
        total, done = sum(runs) * len(feeds), 0

        def ran(place: int) -> None:
            nonlocal done
            done += runs[place]
            passed(done, total)

        for place in range(last):
            kept = self._moved(place, kept, feeds, cuts, source, functools.partial(ran, place))

        def end(at: int) -> list[Found]:
            values = feeds[at] | kept.of((None, at))
            reached = self._run(last, values, self.outputs, NO_CUT, (), source)
            before = {name: reached[name] for name in self.outputs}
            found = []
            for number, cut in enumerate(cuts):
                own = self._own(last, number, cut, at, values, kept, source)
                after = self._carried(last, values, own, cut, source)
                found.append(looked(Outcome(at, number, before, before | after)))
                kept.drop((number, at))
            return found

        for found in self.parts.workers.each(end, range(len(feeds))):
            yield from found
            ran(last)
        self._sessions.clear()

    def measure(
        self,
        cuts: Sequence[Cut],
        feeds: Sequence[Feed],
        source: str,
        meters: Sequence[EffectMeter],
        passed: Passed = lambda _done, _of: None,
    ) -> None:
        """Add to the meter of each cut what it does to the outputs; all meters measure the same output alike."""
        references: dict[int, tuple[Array | None, Reference]] = {}
        tail, last = self._tail, None if self._tail is None else self._tail.session(self.parts)

        def outputs(found: Mapping[str, Array], places: Array | None) -> Mapping[str, Array]:
            if tail is None or last is None:
                return found
            return tail.run(last, found[tail.hidden.name], places, source)

        def look(item: Outcome) -> tuple[int, Measured]:
            meter, feed = meters[item.cut], feeds[item.feed]
            if not isinstance(meter.effect, str):
                return item.cut, meter.measured(item.before, item.after, feed)
            # All cuts of a feed follow one another in one thread.
            if item.feed not in references:
                hidden = None if tail is None else item.before[tail.hidden.name]
                places = None if tail is None or hidden is None else tail.places(hidden, feed, meter.inputs)
                references[item.feed] = places, meter.reference(outputs(item.before, places), feed)
            places, reference = references[item.feed]
            found = meter.apart(reference, outputs(item.after, places), feed)
            if item.cut == len(cuts) - 1:
                del references[item.feed]
            return item.cut, found

        for cut, measured in self.outcomes(cuts, feeds, source, look, passed):
            meters[cut].take(measured)

    def _moved(
        self,
        place: int,
        kept: Kept,
        feeds: Sequence[Feed],
        cuts: Sequence[Cut],
        source: str,
        done: Callable[[], object] = int,
    ) -> Kept:
        """Return what is kept at a place, from what is kept at the one before."""
        wanted = self._names(place)
        stays = place > 0 and self._places.starts_alike(place - 1, place)
        moved = Kept(kept.room)

        def move(at: int) -> None:
            values = feeds[at] | kept.of((None, at))
            reached = self._run(place, values, wanted, NO_CUT, (), source)
            moved.put((None, at), {name: reached[name] for name in wanted})
            for number, cut in enumerate(cuts):
                if self._order[cut.site] < place:
                    own = self._own(place, number, cut, at, values, kept, source)
                    after = own if stays else self._carried(place, values, own, cut, source)
                    moved.put((number, at), after)
                    kept.drop((number, at))
            kept.drop((None, at))

        self.parts.workers.over(move, feeds, done)
        self._sessions.clear()
        return moved

    def _own(
        self,
        place: int,
        number: int,
        cut: Cut,
        feed: int,
        values: Mapping[str, Array],
        kept: Kept,
        source: str,
    ) -> dict[str, Array]:
        """The values of a cut that differ at the place before: at its own site, the contexts."""
        if self._order[cut.site] < place - 1:
            return kept.of((number, feed))
        return _silenced(self.sites[place - 1], self._contexts(place - 1, values, source), cut.heads)

    def _carried(
        self, place: int, values: Mapping[str, Array], own: dict[str, Array], cut: Cut, source: str
    ) -> dict[str, Array]:
        names = [name for name in self._names(place) if name in self._altered[self._order[cut.site]]]
        found = self._run(place, {**values, **own, **cut.weights}, names, cut, tuple(own), source)
        return {name: found[name] for name in names}

    def _run(
        self,
        place: int,
        values: Mapping[str, Array],
        wanted: Sequence[str],
        cut: Cut,
        own: Sequence[str],
        source: str,
    ) -> Mapping[str, Array]:
        """Values at a place from those at the place before, of the model or of a cut."""
        given = dict(self._places.crossing[place - 1]) if place else {}
        opened = () if self._is_over(cut, place - 1) else tuple(cut.weights)
        key = (place, *wanted, None, *(name for name in own if name not in given), None, *opened)
        with self._making:
            if key not in self._sessions:
                fixed = {name: helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in own}
                self._sessions[key] = self.parts.session(given, wanted, fixed=fixed, opened=opened)
            session = self._sessions[key]
        return values if session is None else {**values, **run_feed(session, values, source)}

    def _is_over(self, cut: Cut, place: int) -> bool:
        """Return whether all that reads the weights of a cut lies before a place."""
        if not cut.weights:
            return True
        readers = self._readers[cut.site]
        return place >= 0 and all(self._places.is_done(node, place) for node in readers)

    def _contexts(self, place: int, values: Mapping[str, Array], source: str) -> Mapping[str, Array]:
        """Values at a place with the contexts of its site, which do not cross to it where it starts further ahead."""
        names = [context_of(projection).name for projection in self.sites[place].projections]
        if all(name in values for name in names):
            return values
        key = (place, "contexts")
        with self._making:
            if key not in self._sessions:
                self._sessions[key] = self.parts.session(self._places.crossing[place], names)
            session = self._sessions[key]
        assert session is not None
        return {**values, **run_feed(session, values, source)}

    def _names(self, place: int) -> list[str]:
        return list(self._places.crossing[place]) if place < len(self.sites) else self.outputs


def _place(site: Site) -> list[int]:
    """Where in the graph a site ends."""
    return [node.index for node in (*(item.node for item in site.projections), *choices(site))]


def ends(site: Site) -> tuple[Value, ...]:
    """The values at which a site ends: the contexts that its projections read, or what a layer computes."""
    states = (state.behind for state in site.states)
    return (*(context_of(projection) for projection in site.projections), *states)


def changed_by_cut(site: Site) -> Iterator[Node]:
    """The nodes that compute with what a cut of a site may change beside its contexts."""
    yield from (gate.node for gate in site.gates())
    yield from choices(site)
    for projection in site.contexts:
        yield projection.node
        linear = Linear.of(projection)
        if linear is not None and linear.bias is not None:
            yield from (use.node for use in linear.bias.stored.consumers)


def _silenced(site: Site, values: Mapping[str, Array], heads: Collection[int]) -> dict[str, Array]:
    """The contexts of a site, by name, with zeros where some of its heads are; none where a router leaves units out."""
    found: dict[str, Array] = {}
    for projection in site.contexts:
        name = context_of(projection).name
        value = values[name]
        mask = projection.spread(projection.live_without(heads), value.ndim)
        found[name] = value * mask.astype(value.dtype)
    return found
