"""Products of two activations, linear layers and their weights, and the axes of products that may enumerate heads.

Tokens are not heads. Where a projection reads some of the tokens, the labels of a context differ along the tokens only
because some are dead; where it reads all tokens at once, every token has its own labels. Heads differ
by live labels, on an axis with separate weights per position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from onnxheadprune.liveness.consumers import content_uses
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.index_notation import Notation, contraction_of, kernel_of, operands
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.operator import (
    CARRIERS,
    NORMALIZES,
    OBSERVES,
    QUANTIZES,
    WEIGHS,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import along, back_through, reachable

PICKS_ROWS = kind("Gather", "GatherND")
PICKED_FROM = CARRIERS | PICKS_ROWS | QUANTIZES
"""Nodes through which a stored matrix stays one."""
MAX_UPSTREAM = 128
"""Nodes that are looked at between a product and what it reads: a softmax, masks, views."""


def is_product(node: Node) -> Notation | None:
    """The contraction, if the node multiplies two values that both depend on the inputs."""
    product = contraction_of(node) or _weighted_sum(node)
    if product is None:
        return None
    activations = [value for value in operands(node, product) if not is_weight(value)]
    return product if len(activations) > 1 else None


def core_product(node: Node) -> Notation | None:
    """The contraction of a core: two activations, or one with stored attention weights per head."""
    return is_product(node) or stored_map(node)


def stored_map(node: Node) -> Notation | None:
    """The contraction, if stored attention weights mix the rows of an activation, separately per batch position.

    A synthesizer's attention maps are weights. Both operands share a batch letter, and each has a separate letter.
    """
    product = contraction_of(node)
    if product is None or len(product.terms) != 2 or not product.batch or not product.contracted:
        return None
    stored = [
        index
        for index, value in zip(product.indices, operands(node, product), strict=True)
        if is_weight(value)
    ]
    own = {product.owners(letter) for letter in product.out_axes}
    return product if len(stored) == 1 and all((index,) in own for index in product.indices) else None


def _weighted_sum(node: Node) -> Notation | None:
    """Softmaxed weights times values, or a query times a state, summed by the next node: a matrix product in two nodes.

    Deformable attention samples the values that each query weighs, and causal linear attention has a state for
    each query, so no matrix product fits.
    """
    left, right, out = node.shape(0), node.shape(1), node.out.shape
    if node.domain or not is_a(node, "Mul") or left is None or right is None or out is None:
        return None
    after = [use.node for use in content_uses(node.out)]
    if len(after) != 1 or not is_a(after[0], "ReduceSum") or node.out.is_graph_output:
        return None
    terms = tuple((index, _letters(shape, out)) for index, shape in enumerate((left, right)))
    product = Notation(terms, tuple(f"a{axis}" for axis in range(len(out))))
    if not all(_broadcasts(shape, out) for shape in (left, right)):
        return None
    summed = {product.out_axes[axis] for axis in after[0].reduced_axes or ()}
    if not summed or not summed <= product.batch:
        return None
    makers = (maker for index in (0, 1) for maker in back_through(node.inputs[index], CARRIERS, most=8))
    if any(is_a(maker, "Softmax") for maker in makers):
        return product
    # A context times itself, as a norm has it, has no axis that only one of them has.
    apart = any(len(product.owners(letter)) == 1 for letter in product.out_axes)
    return product if apart and any(_is_state(node, index) for index in (0, 1)) else None


def is_state_space(node: Node) -> bool:
    """Return whether a product reads a state and inputs times a stored weight are added to it, like D of Mamba-2."""

    def below(item: Node) -> list[Node]:
        return (
            [use.node for use in content_uses(item.out)]
            if item is node or item in CARRIERS | kind("ReduceSum")
            else []
        )

    adds = (reader for reader in reachable([node], below, 8) if is_a(reader, "Add"))
    addends = [value.producer for add in adds for value in add.computed if value.producer]
    factors = [value for maker in addends if is_a(maker, "Mul") for value in maker.inputs if value]
    return any(map(is_weight, factors)) and any(_is_state(node, index) for index in (0, 1))


def _broadcasts(shape: Shape, out: Shape) -> bool:
    """Return whether an operand has the axes of the result; unknown sizes that meet are equal."""
    pairs = zip(reversed(shape), reversed(out), strict=False)
    return all(
        dim in (1, size) or not (isinstance(dim, int) and isinstance(size, int)) for dim, size in pairs
    )


def _letters(shape: Shape, out: Shape) -> tuple[str | None, ...]:
    missing = len(out) - len(shape)
    return tuple(
        None if dim == 1 and out[axis + missing] != 1 else f"a{axis + missing}"
        for axis, dim in enumerate(shape)
    )


def _is_state(node: Node, index: int) -> bool:
    """Return whether an operand is a sum of outer products, like the state of linear attention, or adds one to it."""

    def above(maker: Node) -> list[Node]:
        values = maker.computed if is_a(maker, "Add") else maker.inputs[:1]
        ends = contraction_of(maker) is not None or _is_outer(maker)
        return [] if ends else [value.producer for value in values if value and value.producer]

    makers = [value.producer for value in node.inputs[index : index + 1] if value and value.producer]
    return any(map(_is_outer, reachable(makers, above, 16)))


def _is_outer(node: Node) -> bool:
    """Return whether two activations are multiplied that each have an axis which the other lacks."""
    left, right, out = node.shape(0), node.shape(1), node.out.shape
    if node.domain or not is_a(node, "Mul") or left is None or right is None or out is None:
        return False
    letters = [{letter for letter in _letters(shape, out) if letter is not None} for shape in (left, right)]
    stored = any(value is None or value.is_constant for value in node.inputs)
    return not stored and all(first - second for first, second in permutations(letters))


def is_weight(value: Value) -> bool:
    """Return whether a value is stored, or picked from stored matrices by a router (the experts of a mixture)."""
    for _ in range(6):
        if value.is_constant:
            return True
        node = value.producer
        if node is None or node.domain or node not in PICKED_FROM:
            return False
        source = node.inputs[0]
        if source is None or (node in PICKS_ROWS and len(source.shape or ()) < 3):
            # Rows of a matrix are embeddings: an activation like any other.
            return False
        value = source
    return False


def makes_maps(node: Node, index: int) -> bool:
    """Return whether an operand comes from another product, like attention weights."""
    return reaches(node, index, lambda other: is_product(other) is not None)


def reaches(node: Node, index: int, wanted: Callable[[Node], bool]) -> bool:
    """Return whether a node of some kind lies upstream, nearest first, not looking behind contractions."""
    return any(wanted(other) for other in upstream(node.inputs[index], MAX_UPSTREAM, is_contraction))


def is_contraction(node: Node) -> bool:
    """Return whether a node sums over products."""
    return contraction_of(node) is not None


def upstream(start: Value | None, most: int, ends: Callable[[Node], bool]) -> Iterator[Node]:
    """Nodes upstream of a value, nearest first, since a mask may be computed by hundreds of nodes.

    Inputs of which only the shape is read are not followed.
    """
    first = [] if start is None or start.producer is None else [start.producer]
    return reachable(first, lambda node: [] if ends(node) or node in OBSERVES else node.producers, most)


MAX_CONTRACTED = 2**20
"""Positions of a summed axis; the widest transformers have some ten thousand."""


class Summed(NamedTuple):
    """The axes that a linear layer sums over."""

    node: Node  # the layer
    value: Value  # its input
    activation: tuple[int, tuple[int, ...]]  # the index of that input, and its summed axes
    weight: tuple[int, tuple[int, ...]]  # the index of the weight, and its summed axes in the same order
    sizes: tuple[int, ...]  # their lengths


def _stored(value: Value) -> bool:
    return value.is_constant


def weight_contraction(
    node: Node, weighs: Callable[[Value], bool] = _stored
) -> tuple[Notation, int, int] | None:
    """A product of one activation and one weight, with their input indices."""
    product = contraction_of(node)
    if product is None or len(product.terms) != 2:
        return None
    first, second = product.indices
    constant = [weighs(value) for value in operands(node, product)]
    if constant == [False, True]:
        return product, first, second
    return (product, second, first) if constant == [True, False] else None


def summed(node: Node, weighs: Callable[[Value], bool] = _stored, afterwards: bool = False) -> Summed | None:
    """Return the axes that a linear layer sums over, None for other nodes and for unknown or implausible lengths.

    Args:
        afterwards: whether to include axes along which each position has separate weights and the next node
            sums the results: `(context @ W_o).sum(1)` with `W_o` of [heads, head_size, width].
    """
    product = weight_contraction(node, weighs)
    if product is None:
        return None
    contraction, activation, weight = product
    value = node.inputs[activation]
    assert value is not None
    over = contraction.contracted | (_added_up(node, contraction) if afterwards else frozenset())
    letters = [letter for letter in contraction.axes_of(activation) if letter in over]
    on_activation = tuple(contraction.axes_of(activation).index(letter) for letter in letters)
    on_weight = tuple(contraction.axes_of(weight).index(letter) for letter in letters)
    shape = value.shape
    dims = [] if shape is None else [dim for axis in on_activation if isinstance(dim := shape[axis], int)]
    if len(dims) < len(on_activation) or not 1 < math.prod(dims) <= MAX_CONTRACTED:
        return None
    return Summed(node, value, (activation, on_activation), (weight, on_weight), tuple(dims))


def _added_up(node: Node, contraction: Notation) -> frozenset[str]:
    """The batch letters that the only reader of a product sums over."""
    readers = [use.node for use in node.out.consumers]
    if (
        len(readers) != 1
        or not is_a(readers[0], "ReduceSum")
        or node.out.is_graph_output
        or not contraction.contracted
    ):
        return frozenset()
    axes, letters = readers[0].reduced_axes or (), contraction.out_axes
    return contraction.batch & {letters[axis] for axis in axes}


PASSES_KEYS = CARRIERS | NORMALIZES | kind("Dropout", "Slice", "Split")
"""Nodes between a linear layer and the keys that it makes."""
SHIFTS = kind("Add", "Sub", "Mul", "Div")
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
    product, kernel = contraction_of(node), kernel_of(node)
    indices: tuple[int, ...] = ()
    if product is not None:
        indices = product.indices
    elif kernel is not None:
        indices = (kernel,)
    return [index for index in indices if (value := node.input(index)) is not None and is_weight(value)]
