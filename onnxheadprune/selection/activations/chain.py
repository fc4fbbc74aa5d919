"""What cuts of single sites do to a model's outputs, all of them in one pass over its blocks.

Cutting a site changes nothing in front of its projection. So the model is run once, and what a cut changes leaves
it at the site and goes on beside it through the same blocks. Where all sessions fit into memory, feeds are taken one
by one; else all feeds go through one block after the other, and only the weights of one block are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import helper

from onnxheadprune.attention.matrices import Array
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.load import MAPPED_FROM, stored_bytes
from onnxheadprune.runtime import Session
from onnxheadprune.runtime.feeds import Feed
from onnxheadprune.selection.activations.boundaries import Boundaries, Stage
from onnxheadprune.selection.activations.kept import Kept, Room
from onnxheadprune.selection.activations.linear import linear_of
from onnxheadprune.selection.activations.parts import Parts, run_feed
from onnxheadprune.selection.activations.silence import context_of, silenced

Outputs = dict[str, Array]
Visit = Callable[[AttentionSite, int, Mapping[str, Array]], None]
"""Told the site, the position of the feed, and the site's contexts among other values."""


@dataclass(frozen=True, eq=False)
class Cut:
    """Something to try at one site.

    Attributes:
        site: the site's index.
        heads: present heads that are silent.
        weights: new contents of tensors that the site's projections read, by name.
    """

    site: int
    heads: tuple[int, ...]
    weights: Mapping[str, Array] = field(default_factory=dict)


class Chain:
    """A model in blocks, one per site and one behind the last."""

    def __init__(
        self,
        parts: Parts,
        sites: Sequence[AttentionSite],
        outputs: Sequence[Value] = (),
        at_once: int = MAPPED_FROM,
    ) -> None:
        """Cuts the model in front of every site's projections.

        Args:
            parts: makes sessions of its parts.
            sites: where to cut.
            outputs: values that it gives at the end.
            at_once: bytes of weights up to which the sessions of all blocks are held at once.

        Raises:
            RefusedError: if a context lives in the body of a control-flow operator, or is never a float.
        """
        self.parts, self.outputs = parts, [value.name for value in outputs]
        self.sites = sorted(sites, key=lambda site: [item.node.index for item in site.projections])
        stages: list[Stage] = []
        self._readers: dict[int, tuple[Node, ...]] = {}
        made: tuple[Value, ...] = ()
        for site in self.sites:
            contexts = tuple(context_of(projection) for projection in site.projections)
            readers = tuple(use.node for value in contexts for use in value.consumers)
            stages.append(Stage((*contexts, *made), readers, contexts))
            # What reads the site's weights belongs to its block.
            self._readers[site.index] = tuple(_readers_of_weights(site))
            made = tuple(node.out for node in self._readers[site.index])
        self._places = Boundaries(parts.view, stages, outputs)
        self._altered = [self._places.changed_by(stage) for stage in stages]
        self._is_small = stored_bytes(parts.view.model) <= at_once
        self._sessions: dict[tuple[object, ...], Session | None] = {}

    def contexts(self, feeds: Sequence[Feed], source: str, visit: Visit) -> None:
        """Shows the contexts of all sites for all feeds.

        Raises:
            UsageError: if the model does not run on the feeds.
        """
        for _ in self._passed(feeds, source, (), visit):
            pass

    def outcomes(
        self, cuts: Sequence[Cut], feeds: Sequence[Feed], source: str
    ) -> Iterator[tuple[int, Outputs, list[Outputs]]]:
        """For each feed its position, the model's outputs, and the outputs with each of the cuts.

        Raises:
            UsageError: if the model does not run on the feeds.
        """
        for feed, kept in self._passed(feeds, source, cuts, None):
            original = kept.of((None, feed))
            yield feed, original, [original | kept.of((number, feed)) for number in range(len(cuts))]

    def _passed(
        self, feeds: Sequence[Feed], source: str, cuts: Sequence[Cut], visit: Visit | None
    ) -> Iterator[tuple[int, Kept]]:
        """All feeds through all blocks; what is kept at the end, feed by feed."""
        everything = range(len(feeds))
        for group in [[feed] for feed in everything] if self._is_small else [list(everything)]:
            kept = Kept(Room())
            for place, site in enumerate(self.sites):
                kept = self._moved(place, kept, group, feeds, cuts, source)
                for feed in group:
                    contexts = self._contexts(place, feeds[feed] | kept.of((None, feed)), source)
                    if visit is not None:
                        visit(site, feed, contexts)
                    for number, cut in enumerate(cuts):
                        if cut.site == site.index:
                            kept.put((number, feed), silenced(site, contexts, cut.heads))
            if self.outputs:
                kept = self._moved(len(self.sites), kept, group, feeds, cuts, source)
            for feed in group:
                yield feed, kept
                for number in (None, *range(len(cuts))):
                    kept.drop((number, feed))

    def _moved(
        self,
        place: int,
        kept: Kept,
        group: Sequence[int],
        feeds: Sequence[Feed],
        cuts: Sequence[Cut],
        source: str,
    ) -> Kept:
        """What is kept at a place, from what is kept at the one before."""
        if 0 < place < len(self.sites) and self._places.starts_alike(place - 1, place):
            return kept
        wanted = self._names(place)
        moved = Kept(kept.room)
        order = {site.index: number for number, site in enumerate(self.sites)}
        for feed in group:
            values = feeds[feed] | kept.of((None, feed))
            reached = self._run(place, values, wanted, Cut(-1, ()), (), source)
            moved.put((None, feed), {name: reached[name] for name in wanted})
            for number, cut in enumerate(cuts):
                if order[cut.site] >= place:
                    continue
                own = kept.of((number, feed))
                names = [name for name in wanted if name in self._altered[order[cut.site]]]
                changed = self._run(place, {**values, **own, **cut.weights}, names, cut, tuple(own), source)
                moved.put((number, feed), {name: changed[name] for name in names})
                kept.drop((number, feed))
            kept.drop((None, feed))
        if not self._is_small:
            self._sessions.clear()
        return moved

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
        if key not in self._sessions:
            fixed = {name: helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in own}
            self._sessions[key] = self.parts.session(given, wanted, fixed=fixed, opened=opened)
        session = self._sessions[key]
        return values if session is None else {**values, **run_feed(session, values, source)}

    def _is_over(self, cut: Cut, place: int) -> bool:
        """Whether all that reads the weights of a cut lies in front of a place."""
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
        if key not in self._sessions:
            self._sessions[key] = self.parts.session(self._places.crossing[place], names)
        session = self._sessions[key]
        assert session is not None
        return {**values, **run_feed(session, values, source)}

    def _names(self, place: int) -> list[str]:
        return list(self._places.crossing[place]) if place < len(self.sites) else self.outputs


def _readers_of_weights(site: AttentionSite) -> Iterator[Node]:
    """The nodes that compute with what a refit of a site's projections may change."""
    for projection in site.projections:
        yield projection.node
        linear = linear_of(projection)
        if linear is not None and linear.bias is not None:
            yield from (use.node for use in linear.bias.consumers)
