"""What a plan says of feed-forward blocks, and what the pruned model will say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import NEURONS_FROM
from onnxheadprune.edit.plan import NeuronCut
from onnxheadprune.edit.records import RecordedNeurons, neurons_record
from onnxheadprune.model.graph.view import GraphView


def neuron_cuts(
    view: GraphView, sites: Sites, chosen: Mapping[int, tuple[int, ...]]
) -> tuple[NeuronCut, ...]:
    """All blocks, once one of them loses neurons or has lost some before; their numbers stay those of the original.

    Args:
        view: the model.
        sites: its sites.
        chosen: the units that go per site index, as indices of the original.
    """
    earlier = neurons_record(view.model)
    if not earlier and not any(index >= NEURONS_FROM for index in chosen):
        return ()
    cuts = [
        NeuronCut(site.number, site.name, site.original_num_units, chosen.get(site.index, ()), site.removed)
        for site in sites.neurons
    ]
    # Blocks that an earlier pruning removed as a whole are no longer in the graph, only in its record.
    known = {cut.number for cut in cuts}
    cuts += [
        NeuronCut(entry.number, entry.name, entry.num_neurons, (), entry.removed)
        for entry in earlier
        if entry.number not in known
    ]
    return tuple(sorted(cuts, key=lambda cut: cut.number))


def recorded_neurons(cuts: Sequence[NeuronCut], view: GraphView, sites: Sites) -> list[RecordedNeurons]:
    """What the pruned model says of its blocks: this cut and all before it, blocks known by their first names."""
    names = {site.number: site.projection_names for site in sites.neurons}
    names |= {entry.number: entry.projections for entry in neurons_record(view.model)}
    return [
        RecordedNeurons(
            cut.number,
            cut.name,
            cut.num_neurons,
            tuple(sorted({*cut.removed, *cut.removed_before})),
            names[cut.number],
        )
        for cut in cuts
    ]
