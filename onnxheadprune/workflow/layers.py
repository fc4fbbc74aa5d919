"""Layers as `inspect` reports them: the sites that each holds, and its share of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from onnxheadprune.attention.analysis import Analysis
from onnxheadprune.attention.layers import Layer, layers
from onnxheadprune.attention.sites.kinds import kind_of
from onnxheadprune.benchmarking.flops import concrete_view, node_flops, nodes_of
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.runtime.feeds.generate import Case, FeedMaker

USUAL = Case(1, 128, 0)
"""The inputs that operations are counted for."""
MOST_TRIES = 6
"""Sizes that are tried until a model's shapes follow from them; images and audio need larger ones than text."""
MOST_NODES = 10_000
"""Of graphs whose operations are counted, which takes as long as all else that `inspect` does."""


@dataclass(frozen=True)
class LayerSummary:
    """One layer, as `--layers` takes it.

    Attributes:
        key: its number, behind the name of its stack where a model has several: "3", "encoder.3".
        name: its module path, "" where names tell none.
        sites: keys of its attention sites and feed-forward blocks ("attn.3", "ffn.3"), in graph order.
        lacks: what other layers of the model hold and this one does not: "feed-forward block".
        params: elements of the weights and biases that belong to their units.
        params_share: of all stored elements of the model.
        operations_share: the part of all operations of a run that runs through their units; None where that cannot be
            counted, or the graph has more than `MOST_NODES`.
    """

    key: str
    name: str
    sites: tuple[str, ...]
    lacks: tuple[str, ...]
    params: int
    params_share: float
    operations_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: an entry of "layers" in `inspect --json`."""
        return asdict(self)


def summaries(analysis: Analysis) -> tuple[LayerSummary, ...]:
    """Return the layers of a model, stack by stack; nothing where only a record of an earlier version tells them."""
    try:
        found = layers(analysis.sites)
    except RefusedError:
        return ()
    elements = stored_size(analysis.model).elements
    costs = _costs(analysis) if found else {}
    every = {title: None for layer in found.values() for title in _titles(layer)}
    return tuple(
        _summary(layer, [title for title in every if title not in _titles(layer)], elements, costs)
        for layer in found.values()
    )


def _titles(layer: Layer) -> list[str]:
    """Return what the sites of a layer are called whose units can be chosen."""
    return [kind.TITLE for kind in map(kind_of, layer.sites) if kind.CHOSEN]


def _summary(layer: Layer, lacks: Sequence[str], elements: int, costs: Mapping[str, int]) -> LayerSummary:
    own = nodes_of(layer.sites) if costs else ()
    params = sum(site.params for site in layer.sites)
    return LayerSummary(
        layer.key,
        layer.name,
        tuple(site.called(site.number) for site in layer.sites),
        tuple(lacks),
        params,
        params / elements if elements else 0.0,
        sum(cost for ref, cost in costs.items() if ref in own) / sum(costs.values()) if costs else None,
    )


def _costs(analysis: Analysis) -> dict[str, int]:
    """Return the operations of each node by its reference, nothing where they cannot be counted."""
    if len(analysis.view.nodes) > MOST_NODES:
        return {}
    try:
        feeds = islice(FeedMaker(analysis.view).candidates(USUAL), MOST_TRIES)
        for feed, _ in feeds:
            counted = node_flops(concrete_view(analysis.model, feed))
            costs = {node.ref: cost for node, cost in counted.items() if cost is not None and cost >= 0}
            if len(costs) == len(counted) and any(costs.values()):
                return costs
    except UsageError:
        # No inputs of this model can be made up.
        pass
    return {}
