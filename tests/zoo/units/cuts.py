"""Which neurons and layers go: a handful of cuts of every graph, made from what the engine finds in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.neuron_site import NeuronSite
from onnxheadprune.attention.sites.site import Site

NEURONS, LAYERS = "neurons", "layers"
KINDS = (NEURONS, LAYERS)


@dataclass(frozen=True)
class Cut:
    """One cut.

    Attributes:
        kind: `NEURONS` or `LAYERS`.
        name: what is special about it.
        spec: as `prune` takes it.
        units: the present units that go, per site.
    """

    kind: str
    name: str
    spec: dict[str, list[int] | str]
    units: dict[Site, tuple[int, ...]]


def cuts_of(sites: Sites) -> Iterator[Cut]:
    """The cuts of a graph; none of a kind of which there is nothing that can go."""
    yield from neuron_cuts([block for block in sites.neurons if block.removable])
    yield from layer_cuts([layer for layer in sites.of(LAYERS) if layer.removable])


def neuron_cuts(blocks: Sequence[NeuronSite]) -> Iterator[Cut]:
    """The same third of all blocks, another half of each block, and all of one block."""
    for name, choose in _CHOICES.items():
        units = {block: chosen for at, block in enumerate(blocks) if (chosen := choose(block, at))}
        if units:
            spec: dict[str, list[int] | str] = {block.key: list(gone) for block, gone in units.items()}
            yield Cut(NEURONS, name, spec, dict(units))
    if blocks:
        block = blocks[len(blocks) // 2]
        yield Cut(NEURONS, "whole", {block.key: "*"}, {block: tuple(range(block.num_units))})


def layer_cuts(layers: Sequence[Site]) -> Iterator[Cut]:
    """The last layer, and every second one from the first on."""
    for name, gone in {"last": layers[-1:], "second": layers[::2] if len(layers) > 1 else []}.items():
        if gone:
            spec: dict[str, list[int] | str] = {layer.key: "*" for layer in gone}
            yield Cut(LAYERS, name, spec, dict.fromkeys(gone, (0,)))


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
