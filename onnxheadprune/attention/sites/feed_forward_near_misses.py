"""Connected pairs of linear layers that are no block: near misses, each with the node that stops it.

Two layers with an attention or a residual stream in between are not reported: the second layer does not read the
neurons of the first, or they belong to all layers of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from onnxheadprune.attention.sites.near_miss import NearMiss
from onnxheadprune.attention.sites.origins import Cause, Origins, Stop
from onnxheadprune.attention.sites.products import is_product, is_weight, upstream, weight_contraction
from onnxheadprune.attention.sites.streams import Streams, below, is_grouped, is_layer
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.liveness.contraction import contraction_of, operand_indices
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.facts import OBSERVES, WEIGHS
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import reachable

MAX_BEHIND = 256
"""Values after the node that stops labels that are looked at in search of a linear layer."""


class Hidden(NamedTuple):
    """A near miss, with a key that equal ones share (queries, keys and values read the same)."""

    key: str
    miss: NearMiss


def hidden_by(node: Node, made: Origins, streams: Streams) -> Iterator[Hidden]:
    """Yield why a linear layer whose labels led to no neurons ends no block; empty if no layer is connected to it."""
    if any(stop.cause in (Cause.ATTENTION, Cause.STREAM) for stop in made.stops):
        return
    if any(_is_in_stream(value, streams) for value, _ in made.path):
        return
    for stop in made.stops:
        blocks = stop.cause is Cause.OPERATOR and _layer_behind(stop.value, streams)
        if made.makers or blocks:
            refusal = _stopped(stop)
            yield Hidden(refusal.node, NearMiss(node.label, refusal))
            return
    if made.makers and not made.strange:
        sentence = f"{node.label} reads one neuron, which fills all its channels"
        yield Hidden(
            node.ref, NearMiss(node.label, Refusal(Reason.COUPLED, node.label, node.out.name, sentence))
        )


def unread(node: Node, streams: Streams) -> Iterator[Hidden]:
    """A layer with unknown summed axes, if another layer is connected to it."""
    indices = operand_indices(node)
    operands = [value for index in indices if (value := node.input(index)) is not None]
    read = [value for value in operands if not is_weight(value)]
    if len(read) != 1 or len(operands) != 2 or _is_known(node):
        return
    if _layer_behind(read[0], streams):
        reason, why = Reason.UNKNOWN_SHAPE, "the shapes around it are not known"
        if is_grouped(node):
            reason, why = Reason.INEXPRESSIBLE, "it sums up the channels of each group apart"
        sentence = f"neurons cannot be followed into {node.label}: {why}"
        yield Hidden(node.ref, NearMiss(node.label, Refusal(reason, node.label, read[0].name, sentence)))


def is_shared(made: Origins, trial: Sweep, streams: Streams) -> bool:
    """Return whether neurons do not belong to one block: channels of a residual stream, or of a head."""
    values = [value for value, _ in made.path]
    others = [use for value in values for use in _whole(value, trial)]
    return any(streams.leads_on(use.node) or feeds_attention(use.node) for use in others)


def _stopped(stop: Stop) -> Refusal:
    """Return why labels stopped at some value."""
    node = stop.value.producer
    label = stop.value.name if node is None else node.label
    if stop.cause is Cause.SOURCE:
        sentence = f"{stop.value.name}, which no linear layer makes, has a part in each of its neurons"
        return Refusal(Reason.NO_PROJECTION, label, stop.value.name, sentence)
    why = "" if stop.refusal is None else f": {stop.refusal.sentence}"
    sentence = f"its neurons cannot be followed through {label}{why}"
    reason = Reason.INEXPRESSIBLE if stop.refusal is None else stop.refusal.reason
    return Refusal(reason, label, stop.value.name, sentence)


def _is_known(node: Node) -> bool:
    """Return whether the number of positions that a contraction sums over is known."""
    found = weight_contraction(node, is_weight)
    if found is None:
        return contraction_of(node) is not None or not (node.out.shape is None or is_grouped(node))
    contraction, activation, _ = found
    shape, letters = node.shape(activation), contraction.axes_of(activation)
    return shape is not None and all(
        isinstance(dim, int)
        for dim, letter in zip(shape, letters, strict=True)
        if letter in contraction.contracted
    )


def _whole(value: Value, trial: Sweep) -> Iterator[Use]:
    """Readers of a value that still need all of it."""
    for use in value.consumers:
        if trial.edge(use).is_full and not looks_only(use):
            yield use


def _is_in_stream(value: Value, streams: Streams) -> bool:
    return any(streams.leads_on(use.node) for use in value.consumers if not is_layer(use.node))


def feeds_attention(node: Node) -> bool:
    """Return whether the next contraction is a product of activations."""
    if is_layer(node):
        return is_product(node) is not None
    return any(
        is_layer(use.node) and is_product(use.node) is not None
        for other in (node, *below([node]))
        for use in other.out.consumers
    )


def _layer_behind(value: Value, streams: Streams) -> bool:
    """Return whether a linear layer computes a value, with neither an attention nor a residual stream in between."""

    def above(current: Value) -> list[Value]:
        node = current.producer
        if node is None or node in OBSERVES or is_fused(node) or is_layer(node):
            return []
        if node in WEIGHS and any(
            is_product(other) is not None for other in upstream(current, MAX_BEHIND, is_layer)
        ):
            # Scores may have terms that linear layers compute alone: queries times stored keys of relative positions.
            return []
        return [] if streams.joins(node) or _is_in_stream(current, streams) else node.computed

    makers = (item.producer for item in reachable([value], above, MAX_BEHIND))
    layers = (node for node in makers if node is not None and not is_fused(node) and is_layer(node))
    return any(weight_contraction(node, is_weight) is not None or is_grouped(node) for node in layers)
