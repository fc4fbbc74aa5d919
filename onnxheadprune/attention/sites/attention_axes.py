"""Axes that belong to attentions, besides heads, and so to no feed-forward block.

Stored queries are multiplied with keys like weights, attention maps of heads are mixed by weights, and a stored
matrix may turn queries and keys into features. So the owner of channels between two linear layers
is determined with the labels that find the heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from onnxheadprune.attention.sites.attention_near_misses import attention_products, sums_to_one
from onnxheadprune.attention.sites.products import core_product, is_product, is_weight, weight_contraction
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.streams import Streams
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.dims import divisor
from onnxheadprune.model.graph.facts import CARRIERS, DROPOUTS, NORMALIZES
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import back_through, reachable

FIRST, OTHERS = 1, 2
"""Bits of the first position of an axis that may enumerate heads, and of all others."""
HANDS_ON = CARRIERS | DROPOUTS
MAX_VIEWS = 8
"""Nodes between weights and the values that they weigh."""
MAX_WEIGHED = 128
"""Nodes between scores and what they weigh."""


def lies_along_heads(value: Value, live: Live) -> bool:
    """Return whether labels of an attention product's output differ along an axis that may enumerate heads."""
    node = value.producer
    if node is None:
        return False
    if is_fused(node):
        layout = layout_of(node)
        return layout is None or any(axis in layout.out_axes for axis in live.axes)
    found = is_product(node)
    return found is None or any(found.out_axes[axis] in found.batch for axis in live.axes)


def weighs_stored_values(node: Node) -> bool:
    """Return whether a node sums stored values of each head, with computed weights."""
    found = weight_contraction(node, is_weight)
    if found is None or not found[0].batch:
        return False
    return any(map(sums_to_one, back_through(node.inputs[found[1]], HANDS_ON, MAX_VIEWS)))


class AttentionAxes:
    """Axes that belong to the attentions of one model, besides heads."""

    def __init__(self, view: GraphView, sites: Iterable[Site], streams: Streams) -> None:
        self._view, self._streams = view, streams
        self._cores = [core for site in sites for core in site.cores]
        self._tracer = Tracer()

    def of_heads(self, projection: Projection) -> frozenset[int]:
        """The labels of context channels that a linear layer reads; they count from 1."""
        value = projection.node.inputs[projection.activation[0]]
        assert value is not None
        trace = self._tracer.trace(value, projection.activation[1], projection.sizes)
        return frozenset(label for core in trace.cores for labels in core.heads for label in labels)

    def makes_scores(self, node: Node) -> bool:
        """Return whether a linear layer's output becomes attention weights of the next product.

        Other layers may mix the maps of heads in between.
        """

        def ahead(item: tuple[Node, bool]) -> list[tuple[Node, bool]]:
            current, is_map = item
            readers = filter(self._may_hold_scores, current.readers)
            return [(reader, is_map or sums_to_one(reader)) for reader in readers]

        walk = reachable([(node, False)], ahead, MAX_WEIGHED)
        return any(self._weighs_values(reader) for item, is_map in walk if is_map for reader in item.readers)

    def _weighs_values(self, node: Node) -> bool:
        return node in self._products or is_product(node) is not None or weighs_stored_values(node)

    def _may_hold_scores(self, node: Node) -> bool:
        """Return whether scores are still scores after a node."""
        return is_product(node) is None and node not in NORMALIZES and not self._streams.joins(node)

    def keeps_heads(self, node: Node) -> bool:
        """Return whether all heads share a linear layer, between an attention and the layers that compute its heads."""
        return node in self._within

    @cached_property
    def _products(self) -> frozenset[Node]:
        return frozenset([*self._cores, *attention_products(self._view)])

    @cached_property
    def _within(self) -> frozenset[Node]:
        """Linear layers that pass heads on to an attention, but do not compute them."""
        walks = [
            sweep(seeds, domain=Labels(FIRST | OTHERS))
            for core in self._products
            for seeds in _head_seeds(core)
        ]
        return frozenset(node for walk in walks for node in _passing(walk))


def _passing(walk: Sweep) -> Iterable[Node]:
    """Linear layers that labels pass; none if they lie along samples or tokens, which no linear layer computes."""
    layers = [
        (node, found) for node in walk.asked if (found := weight_contraction(node, is_weight)) is not None
    ]
    labelled = {
        (node, index)
        for node, (_, *indices) in layers
        for index in indices
        if (live := walk.edges.get((node.index, index))) is not None and live.axes
    }
    if any((node, found[2]) in labelled and (node, found[1]) not in labelled for node, found in layers):
        yield from (node for node, found in layers if (node, found[1]) in labelled)


def _head_seeds(core: Node) -> Iterable[list[Seed]]:
    """Yield a product's demands on its operands for one position of an axis that may hold heads, and for the rest."""
    product, shape = core_product(core), core.out.shape
    if product is None or shape is None:
        return
    for axis, letter in enumerate(product.out_axes):
        count = divisor(shape[axis])
        if letter not in product.batch or count < 2:
            continue
        bits = np.array([FIRST] + [OTHERS] * (count - 1), dtype=object)
        answer = ask(core, [Live.over((axis,), bits)], Labels(FIRST | OTHERS))
        if not isinstance(answer, Refusal):
            yield [Seed(core, index, live, "") for index, live in answer.inputs.items()]
