"""Evidence that axes of a labelled value are those of heads, and not only positions.

Tokens are not heads. Where a projection reads some of the tokens, the labels of a context differ along the tokens only
because some are dead; where it reads all tokens at once, every token has its own labels. Heads differ
by live labels, on an axis with separate weights per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnxheadprune.attention.sites.products import (
    MAX_UPSTREAM,
    core_product,
    is_contraction,
    is_weight,
    reaches,
    upstream,
    weight_contraction,
)
from onnxheadprune.liveness.contraction import CONVOLUTIONS, contraction_of
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.facts import (
    ADDS,
    CARRIERS,
    DIVIDES,
    DROPOUTS,
    MULTIPLIES,
    NORMALIZES,
    SLICES,
    SPLITS,
    SUBTRACTS,
    WEIGHS,
)
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import along, reachable

PASSES_KEYS = CARRIERS | DROPOUTS | NORMALIZES | SLICES | SPLITS
"""Nodes between a linear layer and the keys that it makes."""
SHIFTS = ADDS | SUBTRACTS | MULTIPLIES | DIVIDES
"""The same, where all other operands are stored: biases and scales."""
MAX_TOLD_APART = 2**12
"""Positions of one axis that are looked at; no attention has more heads."""


def without_blind(live: Live, among: Iterable[int]) -> Live:
    """Labels without some axes along which all live labels are equal.

    Examples:
        `[[1, 2], [1, 2], [0, 0]]` is `[1, 2]`: the third row was cut off, which is no evidence.
    """
    for axis in among:
        if axis in live.axes and not _differs(live, axis):
            live = live.only([other for other in live.axes if other != axis])
    return live


def _differs(live: Live, axis: int) -> bool:
    """Return whether two live labels along an axis differ, all other positions being the same."""
    position, array = live.axes.index(axis), live.array
    largest = array.max(axis=position)
    smallest = np.where(array == 0, np.iinfo(array.dtype).max, array).min(axis=position)
    return bool(np.any((largest != 0) & (smallest != largest)))


def tokens_of(live: Live, axes: Sequence[int]) -> int:
    """The number of positions of some axes with distinct labels; one where labels repeat (a scrambled view)."""
    if not axes or np.unique(live.array).size - np.any(live.array == 0) != np.count_nonzero(live.array):
        return 1
    return math.prod(int(np.count_nonzero(live.only([axis]).array)) for axis in axes)


def told_apart(node: Node, axis: int, size: int, run: Dim = 1, stacked: bool = False) -> list[int] | None:
    """The positions of an axis of a product that have separate weights upstream.

    Only output channels of linear layers count. Other stored tensors do not: tokens are rows of stored
    queries, or each is multiplied with a table of relative positions, and a fixed batch repeats stored tensors.

    For each position the number of its class: positions that read the same weights are in one class. None where
    unknown, because an operator on the way has no rule or a shape is unknown.

    Args:
        run: the number of consecutive positions that count as one: then `size` counts runs.
        stacked: whether a layer that computes some positions and no others tells those apart: its output is stacked
            with that of other layers. Rows are not told apart by that, for texts and images that attend to each other
            have layers of their own, too.
    """
    walk = _walk_of(node, axis, size, run)
    if walk is None:
        return None
    read = [*_read_channels(walk, node), *(_read_whole(walk, node) if stacked else ())]
    return _classes(read, walk, size)


def are_channels(node: Node, axis: int, size: int, run: Dim = 1) -> bool:
    """Return whether linear layers compute the positions of an axis from common inputs, as they compute heads.

    Tokens come from the inputs of these layers, or are stored queries, which no layer computes.
    """
    walk = _walk_of(node, axis, size, run)
    if walk is None or any(live.axes for live in _read_by_layers(walk)):
        return False
    return len(set(_classes([*_read_channels(walk, node), *_read_whole(walk, node)], walk, size) or ())) > 1


def _classes(read: Iterable[Live], walk: Sweep, size: int) -> list[int] | None:
    """The class of each position by the parts of weights that it reads, None where that is unknown."""
    cells = {int(item) for live in read for item in live.array.reshape(-1)} - {(1 << size) - 1, 0}
    if not cells and walk.refusals:
        return None
    signatures = [tuple(cell >> position & 1 for cell in sorted(cells)) for position in range(size)]
    numbers = {signature: number for number, signature in enumerate(dict.fromkeys(signatures))}
    return [numbers[signature] for signature in signatures]


def _read_by_layers(walk: Sweep) -> Iterator[Live]:
    """The elements of activations that linear layers on a walk read."""
    for layer in walk.answers:
        weights = stored_weights(layer)
        for index in range(len(layer.inputs)) if weights else ():
            value = layer.input(index)
            if index not in weights and value is not None and not is_weight(value):
                yield walk.edges.get((layer.index, index), FULL)


def _walk_of(node: Node, axis: int, size: int, run: Dim = 1) -> Sweep | None:
    """Trace what a product reads per position of an axis, one bit each; None without a propagation rule."""
    found = core_product(node)
    if found is None or size > MAX_TOLD_APART:
        return None
    everyone = (1 << size) - 1
    bits = np.array([1 << position for position in range(size)], dtype=object)
    answer = ask(node, [Live.over((axis,), bits, ((axis, run),) if run != 1 else ())], Labels(everyone))
    if isinstance(answer, Refusal):
        return None
    seeds = [Seed(node, index, live, "") for index, live in answer.inputs.items() if index in found.indices]
    return sweep(seeds, domain=Labels(everyone))


def _read_channels(walk: Sweep, product: Node) -> Iterator[Live]:
    """The weights of linear layers that a walk upstream reaches, by output channel."""
    scores = {other for index in range(len(product.inputs)) for other in _scores_of_stored(product, index)}
    for node in walk.answers:
        if node in scores:
            continue
        for index in stored_weights(node):
            live = walk.edges.get((node.index, index), FULL)
            own = [axis for axis in live.axes if _is_channel(node, index, axis)]
            if own and not live.is_mask:
                yield live.only(own)


def _is_channel(layer: Node, index: int, axis: int) -> bool:
    """Return whether an axis of a stored weight enumerates output channels of a layer."""
    found = contraction_of(layer)
    if found is None:
        return axis == 0 and layer.attribute("group", 1) == 1
    # Of two stored operands the first is the data: x @ W.
    is_data = index == found.indices[0] and all(value is None or is_weight(value) for value in layer.inputs)
    return not is_data and found.owners(str(found.axes_of(index)[axis])) == (index,)


def _scores_of_stored(product: Node, index: int) -> Iterator[Node]:
    """Scores of stored queries without separate heads, upstream of an operand that a softmax computes."""
    if reaches(product, index, lambda node: node in WEIGHS):
        for node in upstream(product.inputs[index], MAX_UPSTREAM, is_contraction):
            rows = rows_of_stored_queries(node)
            if len(rows) == 1 and rows != [1]:
                yield node


def rows_of_stored_queries(node: Node) -> list[Dim]:
    """The lengths of the axes that stored queries (a Perceiver's latents) do not share with the keys; none for others.

    Keys come from a linear layer, with no activation in between: a pooling may compute its one map by two layers.
    """
    found = weight_contraction(node)
    if found is None:
        return []
    product, stored = found[0], node.shape(found[2])
    keys = node.inputs[found[1]]
    *_, source = [None] if keys is None else along(keys, _passed_on)
    if source is None or source.producer is None or weight_contraction(source.producer) is None:
        return []
    return [
        dim
        for dim, letter in zip(stored or (), product.axes_of(found[2]), strict=True)
        if letter in product.out_axes and letter not in product.batch
    ]


def _passed_on(value: Value) -> Value | None:
    """The source of a value through views, shifts and multiples, with no activation in between."""
    node = value.producer
    if node is None:
        return None
    if node in PASSES_KEYS:
        return node.input(0)
    return node.computed[0] if node in SHIFTS and len(node.computed) == 1 else None


def _read_whole(walk: Sweep, product: Node) -> Iterable[Live]:
    """The parts of the weights nearest to a product that a walk reads, where all labels of a tensor are equal."""

    def above(node: Node) -> list[Node]:
        return [] if stored_weights(node) else [other for other in node.producers if other in walk.answers]

    first = [node for node in product.producers if node in walk.answers]
    nearest = ((node, index) for node in reachable(first, above) for index in stored_weights(node))
    lives = (walk.edges.get((node.index, index)) for node, index in nearest)
    return (live for live in lives if live is not None and not live.axes and not live.is_mask)


def stored_weights(node: Node) -> list[int]:
    """Input indices of stored weights that a node multiplies or convolves with."""
    product, kernel = contraction_of(node), CONVOLUTIONS.of(node)
    indices: tuple[int, ...] = ()
    if product is not None:
        indices = product.indices
    elif kernel is not None:
        indices = (kernel.weight,)
    return [index for index in indices if (value := node.input(index)) is not None and is_weight(value)]
