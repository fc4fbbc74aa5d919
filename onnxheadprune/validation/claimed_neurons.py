"""What a pruned model says of its feed-forward blocks, as a spec for the original."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.attention.analysis import Analysis
from onnxheadprune.edit.records import RecordedNeurons, neurons_record
from onnxheadprune.errors import UsageError


def claimed_neurons(
    record: Sequence[RecordedNeurons], analysis: Analysis, names: tuple[str, str]
) -> dict[str, list[int]]:
    """Neurons per block of the original that the pruned model's record has and the original's has not.

    Args:
        record: of the pruned model.
        analysis: of the original.
        names: how to call the two.

    Raises:
        UsageError: if the record does not speak of the original's blocks.
    """
    if not record:
        return {}
    # Blocks that the original has lost as a whole are in its record alone.
    gone = {entry.number: entry.removed for entry in neurons_record(analysis.view.model) if not entry.left}
    blocks = {name: site for site in analysis.sites.neurons for name in site.projection_names}
    spec: dict[str, list[int]] = {}
    for entry in record:
        site = next((blocks[name] for name in entry.projections if name in blocks), None)
        if site is None and entry.number in gone:
            continue
        if site is None or site.original_num_units != entry.num_neurons:
            there = "is missing" if site is None else f"has {site.original_num_units} neurons"
            raise UsageError(
                f"the record of {names[1]} speaks of block ffn.{entry.number} ({entry.name}) with"
                f" {entry.num_neurons} neurons, which {there} in {names[0]}; the two do not belong together"
            )
        if not set(site.removed) <= set(entry.removed):
            raise UsageError(
                f"{names[0]} lacks neurons of block ffn.{entry.number} that {names[1]} still has; are the two swapped?"
            )
        neurons = sorted(set(entry.removed) - set(site.removed))
        if neurons:
            spec[site.key] = neurons
    return spec
