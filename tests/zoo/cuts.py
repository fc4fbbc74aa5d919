"""The cuts of one graph: the head sets of its case, and neurons, layers and experts that are found in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxheadprune import Sites
from onnxheadprune.attention.sites.neuron_site import NeuronSite
from onnxheadprune.attention.sites.site import Site
from tests.zoo.case import HeadSet
from tests.zoo.row import EXPERTS, HEADS, LAYERS, NEURONS

Spec = dict[str, list[int] | str]


class NoStateError(Exception):
    """The output of a module has the shape of none of its inputs: it cannot be the identity."""


@dataclass(frozen=True)
class Cut:
    """One cut.

    Attributes:
        kind: of the units.
        name: what is special about it.
        spec: as `prune` takes it.
        units: the present units that go, per site; empty for heads.
        heads: of a head set: the heads that go, per projection.
    """

    kind: str
    name: str
    spec: Spec
    units: dict[Site, tuple[int, ...]]
    heads: HeadSet = ()


def cuts_of(sites: Sites, kind: str) -> Iterator[Cut]:
    """The cuts of one kind other than heads; none where there is nothing that can go."""
    some = [site for site in sites.of(kind) if site.removable]
    return {NEURONS: _neuron_cuts, LAYERS: _layer_cuts, EXPERTS: _expert_cuts}[kind](some)


def head_cut(name: str, heads: HeadSet, sites: Mapping[int, Site]) -> Cut:
    """A head set of the case; `sites` are those of its projections."""
    spec: Spec = {sites[place].key: list(gone) for place, gone in enumerate(heads) if gone}
    return Cut(HEADS, name, spec, {}, heads)


def _neuron_cuts(blocks: Sequence[NeuronSite]) -> Iterator[Cut]:
    """The same third of all blocks, another half of each block, and all of one block."""
    for name, choose in _CHOICES.items():
        yield from _listed(NEURONS, name, ((block, choose(block, at)) for at, block in enumerate(blocks)))
    for block in blocks[len(blocks) // 2 :][:1]:
        yield Cut(NEURONS, "whole", {block.key: "*"}, {block: tuple(range(block.num_units))})


def _layer_cuts(layers: Sequence[Site]) -> Iterator[Cut]:
    """The last layer, and every second one from the first on."""
    for name, gone in {"last": layers[-1:], "second": layers[::2] if len(layers) > 1 else []}.items():
        if gone:
            yield Cut(LAYERS, name, {layer.key: "*" for layer in gone}, dict.fromkeys(gone, (0,)))


def _expert_cuts(mixtures: Sequence[Site]) -> Iterator[Cut]:
    """Every fourth expert, as many of each group that a router may have; others in every other mixture."""
    yield from _listed(
        EXPERTS,
        "fourth",
        ((site, tuple(range(at % 2, site.num_units, 4))) for at, site in enumerate(mixtures)),
    )


def _listed(kind: str, name: str, chosen: Iterable[tuple[Site, tuple[int, ...]]]) -> Iterator[Cut]:
    units = {site: gone for site, gone in chosen if gone}
    if units:
        yield Cut(kind, name, {site.key: list(gone) for site, gone in units.items()}, units)


def _third(block: NeuronSite, _: int) -> tuple[int, ...]:
    return _joined(block, block.units[::3])


def _half(block: NeuronSite, at: int) -> tuple[int, ...]:
    """A stretch of half a block, another one in each block."""
    count = len(block.units)
    first = at % count
    return _joined(block, [block.units[(first + step) % count] for step in range(count // 2)])


def _joined(block: NeuronSite, units: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Units that only go together, as neurons; nothing where that would be all of the block."""
    gone = tuple(sorted(neuron for unit in units for neuron in unit))
    return gone if len(gone) < block.num_units else ()


_CHOICES: dict[str, Callable[[NeuronSite, int], tuple[int, ...]]] = {"third": _third, "half": _half}
