"""Feed-forward blocks: their units are neurons, the positions between two maps with weights.

They are found by structure, like heads: a map with weights sums up what other maps with weights make, position by
position (`origins.py`). That covers GELU and ReLU networks, gated ones (two maps, or one packed map, make a neuron),
convolutions between the maps, each expert of a mixture, experts that a router picks from one tensor, and the fused and
quantized forms of all of them. Experts in one operator are read from its layout (`experts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxheadprune.attention.sites.experts import mixture_site
from onnxheadprune.attention.sites.grouping import Partition, branch_of, weight_name
from onnxheadprune.attention.sites.maps import Summed, summed
from onnxheadprune.attention.sites.neuron_site import NeuronSite, finder
from onnxheadprune.attention.sites.origins import Origins, origins
from onnxheadprune.attention.sites.products import is_weight
from onnxheadprune.attention.sites.stored import units_together, why_not_cut
from onnxheadprune.attention.sites.unit import Projection, united
from onnxheadprune.attention.sites.weights import weights_of
from onnxheadprune.liveness.live import FULL
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.model.graph.view import GraphView, Node

__all__ = ["NeuronSite", "in_one_operator", "written_out"]


@dataclass(eq=False)
class _Block:
    """A feed-forward block on the way to a site.

    Attributes:
        projections: the maps that sum the neurons up.
        makers: the maps that make them, each with one neuron of its own.
        mixer: an operator between the two that mixes neurons, None without.
        mixing: why it does.
    """

    projections: list[Projection]
    makers: dict[Node, int]
    mixer: Node | None
    mixing: Refusal | None


@finder
def written_out(view: GraphView) -> list[NeuronSite]:
    """Blocks whose maps are nodes of their own.

    Args:
        view: an annotated view.
    """
    return [site for block in _blocks(view) if (site := _site(block)) is not None]


@finder
def in_one_operator(view: GraphView) -> list[NeuronSite]:
    """Mixtures of experts that one operator holds.

    Args:
        view: an annotated view.
    """
    return [site for node in view.needed if (site := mixture_site(node)) is not None]


def _blocks(view: GraphView) -> list[_Block]:
    """Maps that sum up what others make; those that read the same neurons are one block."""
    found: dict[object, _Block] = {}
    for node in view.needed:
        read = summed(node, is_weight)
        if read is None:
            continue
        made = origins(read.value, read.activation[1], read.sizes)
        channels = _channels(made)
        if len(channels) < 2:
            continue
        projection = Projection(node, read.activation, read.weight, read.sizes, channels)
        key = _identity(read, made, projection)
        block = found.setdefault(key, _Block([], {}, made.mixer, made.mixing))
        block.projections.append(projection)
        owner = _owners(projection)
        block.makers |= {
            maker: owner[min(row)]
            for maker, rows in made.makers.items()
            for row in rows
            if row & owner.keys()
        }
    return list(found.values())


def _channels(made: Origins) -> tuple[tuple[int, ...], ...]:
    """The positions of each neuron: those that share a channel of some map go together."""
    together: Partition[int] = Partition()
    own: set[int] = set()
    for rows in made.makers.values():
        for row in rows:
            own |= row
            if len(row) > 1:
                together.join(row)
    for label in sorted(own):
        together.root(label)
    sets = [sorted(members) for members in together.sets()]
    whole = [members for members in sets if made.strange.isdisjoint(members)]
    return tuple(tuple(label - 1 for label in members) for members in sorted(whole))


def _identity(read: Summed, made: Origins, projection: Projection) -> object:
    """What two projections have in common that read the same neurons.

    They read the same channels of the same maps; or they are one map written twice, in both branches of an `If`.
    """
    branch = branch_of(read.node)
    if branch is not None:
        return branch[0], weight_name(projection), len(projection.channels)
    owner = _owners(projection)
    return tuple(
        (maker.index, tuple(owner.get(min(row, default=0)) for row in rows))
        for maker, rows in sorted(made.makers.items(), key=lambda item: item[0].index)
    )


def _owners(projection: Projection) -> dict[int, int]:
    """The neuron of each labelled position."""
    return {position + 1: unit for unit, members in enumerate(projection.channels) for position in members}


def _site(block: _Block) -> NeuronSite | None:
    """The site of a block, None where each map that makes its neurons makes them for others too."""
    count = len(block.projections[0].channels)
    site = NeuronSite(
        index=NeuronSite.FROM,
        name="",
        num_units=count,
        groups=tuple((unit,) for unit in range(count)),
        projections=tuple(block.projections),
        cores=tuple(block.makers),
        units=units_together(block.projections, count),
        original_num_units=count,
    )
    # One neuron of every map: a map that only makes others would not get narrower.
    removed = united(block.makers.values(), site.units)
    trial = sweep(list(site.seeds(removed)), through=block.mixer)
    whole = [maker for maker in block.makers if trial.kept.get(maker.out, FULL).is_full]
    if len(whole) == len(block.makers):
        return None
    elements, size, flops = weights_of(trial)
    scale = count / len(removed)
    return replace(
        site,
        reason=_mixed(block) or _read_elsewhere(whole) or why_not_cut(site),
        params=round(elements * scale),
        bytes=round(size * scale),
        flops_per_token=round(flops * scale),
    )


def _mixed(block: _Block) -> Refusal | None:
    """An operator that mixes neurons; laws call what they keep apart heads."""
    if block.mixing is None:
        return None
    return replace(block.mixing, sentence=block.mixing.sentence.replace("heads", "neurons"))


def _read_elsewhere(makers: Sequence[Node]) -> Refusal | None:
    """A map that makes a neuron also for others."""
    for maker in makers:
        sentence = f"what {maker.label} makes of a neuron is also needed elsewhere"
        return Refusal(Reason.NO_PROJECTION, maker.label, maker.out.name, sentence)
    return None
