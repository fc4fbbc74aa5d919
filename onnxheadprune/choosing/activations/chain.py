"""A walk from site to site: what each reads, and what cuts of single sites do to a model's outputs.

Cutting a site changes nothing before its projection. So the model is run once, and what a cut changes leaves
it at the site and goes on beside it through the same blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxheadprune.attention.main_graph_copy import choices, off
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.boundaries import Boundaries, Stage
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.parts import Parts, Running, context_of, run_feed
from onnxheadprune.choosing.activations.walk import BatchReader, Variant, Walk
from onnxheadprune.data.drift import EffectMeter, Measured, counted
from onnxheadprune.edit.submodel import NOTHING
from onnxheadprune.model.graph.operator import ELEMENTWISE, kind
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input

SAMPLED_BYTES = 2**25
"""Bytes of an output beyond which a sample of its positions is computed."""


@dataclass(frozen=True, eq=False)
class Tail:
    """The last layer of a model with many words, run on a sample of positions.

    It computes every position by itself, so that a few positions are exact without the others. With 150,000 words it
    is a third of the work of a cut, and its output for one long text is larger than memory should be.
    """

    hidden: Value  # what they read, features on its last axis
    nodes: tuple[Node, ...]  # the nodes, from the output to the layer
    width: int  # the features of the output
    output: Value

    @classmethod
    def of(cls, output: Value) -> Tail | None:
        """Return that of an output; None unless a single linear layer and element by element operators make it."""
        nodes: list[Node] = []
        value: Value | None = output
        while value is not None and value.producer is not None and value.scope.parent is None:
            node = value.producer
            nodes.append(node)
            linear = Linear.at(node)
            if linear is not None:
                return cls._ending(linear, nodes, output)
            value = _only_variable(node)
        return None

    @classmethod
    def _ending(cls, linear: Linear, nodes: Sequence[Node], output: Value) -> Tail | None:
        hidden, shape = linear.source, linear.out.shape or ()
        last = (len(shape) - 1,)
        if linear.axes != last or linear.out_axes != last or hidden.is_constant or not hidden.elem_type:
            return None
        # With a scale that is measured on all of them, a position depends on the others.
        if hidden not in linear.node.inputs or linear.node.roles.integer_weight is not None:
            return None
        return cls(hidden, tuple(nodes), linear.matrix.shape[-1], output)

    def session(self, parts: Parts) -> Session:
        """Load it."""
        made = parts.session({self.hidden.name: self.hidden.elem_type}, [self.output.name])
        assert made is not None
        return made

    def places(self, hidden: Array, feed: Feed, inputs: Sequence[Input]) -> Array | None:
        """Return the positions to compute: spread evenly over those that are no padding; None for all of them."""
        most = max(SAMPLED_BYTES // (4 * self.width), 1)
        shape = hidden.shape[:-1]
        if math.prod(shape) <= most:
            return None
        mask = counted(shape, feed, inputs)
        places = np.arange(math.prod(shape)) if mask is None else np.flatnonzero(mask)
        return (
            places[np.linspace(0, len(places), most, endpoint=False).astype(int)]
            if len(places) > most
            else places
        )

    def run(self, session: Session, hidden: Array, places: Array | None, source: str) -> Mapping[str, Array]:
        """Return the output at some positions."""
        if places is not None:
            rows = hidden.reshape(-1, hidden.shape[-1])[places]
            hidden = rows.reshape(*(1 for _ in hidden.shape[:-2]), *rows.shape)
        return run_feed(session, {self.hidden.name: hidden}, source)


def _only_variable(node: Node) -> Value | None:
    """The one input that a node computes its output from, element by element, features with features."""
    if node not in ELEMENTWISE | kind("Cast", "Identity"):
        return None
    found = [value for value in node.sources if not value.is_constant]
    if len(found) != 1 or any(len(value.shape or ()) > 1 for value in node.sources if value.is_constant):
        return None
    return found[0]


@dataclass(frozen=True, eq=False)
class Cut:
    """Something to try at one site."""

    heads: tuple[int, ...]  # present heads that are silent
    # new contents of tensors that the site's projections read, by name
    weights: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, site: Site, units: Iterable[int], weights: Mapping[str, Array] = NOTHING) -> Cut:
        """A site without some units: silent in its contexts, kept from the choice of its router, or bypassed."""
        gone = tuple(sorted(units))
        masks = {gate.mask: gate.alive(gone) for gate in site.gates()} | off(site) if gone else {}
        return cls(gone if site.contexts else (), {**weights, **masks})


class Chain:
    """A model in blocks, one per site and one after the last.

    Attributes:
        sites: those that the walk stops at, in the order of the graph.
        feeds: the batches.
        workers: who runs them.
        running: which of their projections run on which batches.
    """

    def __init__(
        self,
        parts: Parts,
        sites: Sequence[Site],
        feeds: Sequence[Feed],
        source: str,
        outputs: Sequence[Value] = (),
        *,
        sampled: bool = False,
        behind: Mapping[int, Sequence[Value]] | None = None,
    ) -> None:
        """Cut the model before every site's projections.

        Args:
            outputs: what cuts are measured at.
            sampled: the last layer of a single output may be computed at a sample of positions.
            behind: values that are computed from what is there at a site, by its index.
        """
        changed = {node for site in sites for node in changed_by_cut(site)} if sampled else set()
        tail = Tail.of(outputs[0]) if sampled and len(outputs) == 1 else None
        self._tail = None if tail is None or changed & set(tail.nodes) else tail
        self._outputs = outputs if self._tail is None else (self._tail.hidden,)
        self.sites = sorted(sites, key=_place)
        self._stages: list[Stage] = []
        made: tuple[Value, ...] = ()
        for site in self.sites:
            contexts = ends(site)
            readers = tuple(use.node for value in contexts for use in value.consumers)
            wanted = (*contexts, *(behind or {}).get(site.index, ()))
            self._stages.append(Stage((*contexts, *made), readers, wanted))
            # What reads the site's weights belongs to its block.
            made = tuple(next(filter(None, node.outputs)) for node in changed_by_cut(site))
        boundaries = Boundaries(parts.view, self._stages, self._outputs)
        self._walk = Walk(parts, boundaries, feeds, source)
        self._source, self.feeds, self.workers = source, feeds, parts.workers
        nodes = [projection.node for site in sites for projection in site.projections]
        self.running = Running(parts, nodes, feeds, source)

    def contexts(self, ran: Callable[[], object] = int) -> Iterator[tuple[Site, BatchReader]]:
        """For each site a reader of its contexts, among other values. Each site's are asked for before the next.

        Args:
            ran: called with each batch that has come to a site.
        """
        for stage, site in enumerate(self.sites):
            self._walk.enter(stage, ran)
            yield site, self._walk.original(ends(site))

    def start(self, cut: Cut, batches: Iterable[int]) -> Variant:
        """Let a cut of the site that the walk is at go on beside the model, for some batches."""
        stage = self._walk.stage
        site = self.sites[stage]
        variant = Variant(self._walk.boundaries.changed_by(self._stages[stage]), stage)
        read = self._walk.read(map(context_of, site.contexts))
        own = (_silenced(site, read(at), cut.heads) if cut.heads else {} for at in batches)
        self._walk.start(variant, zip(batches, own, strict=True), cut.weights)
        return variant

    def measure(self, meters: Mapping[Variant, EffectMeter], ran: Callable[[], object] = int) -> None:
        """Add to the meter of each cut what it does to the outputs; all meters measure the same output alike.

        Args:
            ran: called with each batch that is measured.
        """
        walk, tail = self._walk, self._tail
        last = None if tail is None else tail.session(walk.parts)
        before = walk.read(self._outputs)
        after = {
            variant: walk.read((value for value in self._outputs if value.name in variant.altered), variant)
            for variant in meters
        }

        def shown(found: Mapping[str, Array], places: Array | None) -> Mapping[str, Array]:
            if tail is None or last is None:
                return found
            return tail.run(last, found[tail.hidden.name], places, self._source)

        def measured(batch: int) -> list[tuple[EffectMeter, Measured]]:
            feed, found = walk.feeds[batch], list[tuple[EffectMeter, Measured]]()
            reference, places = None, None
            there = before(batch)
            for variant, meter in meters.items():
                if not walk.runs_on(variant, batch):
                    continue
                here = there | after[variant](batch)
                if not isinstance(meter.effect, str):
                    found.append((meter, meter.measured(there, here, feed)))
                    continue
                if reference is None:
                    places = (
                        None if tail is None else tail.places(there[tail.hidden.name], feed, meter.inputs)
                    )
                    reference = meter.reference(shown(there, places), feed)
                found.append((meter, meter.apart(reference, shown(here, places), feed)))
            return found

        batches = [
            at for at in range(len(walk.feeds)) if any(walk.runs_on(variant, at) for variant in meters)
        ]
        for found in walk.parts.workers.each(measured, batches):
            for meter, each in found:
                meter.take(each)
            ran()


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
