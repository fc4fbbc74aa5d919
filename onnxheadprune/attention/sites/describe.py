"""The parts of a site, from label sweeps: KV groups, widths, caches, attention maps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from functools import cached_property

import numpy as np

from onnxheadprune.attention.sites.caches import (
    Sharing,
    bits_of,
    cache_ends,
    comes_or_goes,
    join_shared,
    weights_read,
)
from onnxheadprune.attention.sites.core import MAX_UPSTREAM, MAX_VIEWS, Core
from onnxheadprune.attention.sites.grouping import VALUES, Block, Partition
from onnxheadprune.attention.sites.products import core_product, is_contraction, is_product, upstream
from onnxheadprune.liveness.carriers import carrier_outputs
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.index_notation import contraction_of
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import Array


def anatomy(block: Block) -> Anatomy | Refusal:
    """Walk from the cores of a block up both operands. A refusal if inputs of heads cannot be distinguished."""
    found = Anatomy(block)
    for core in block.cores:
        if is_fused(core.node):
            found.read_fused(core)
        else:
            found.read_product(core)
    return found.refusal or found


class Anatomy:
    """The values upstream of the cores of a block, collected core by core.

    Attributes:
        io: graph inputs and outputs on the key and value paths.
        owners: the head at each position of these, one bit per head, where known.
        maps: graph outputs with attention maps of fused cores.
        scores: the products of queries and keys.
        probability_nodes: nodes between these and the core.
        shared: heads that are known to share a KV head.
        query_size: width of a query or key head, once known.
        sharing: for each walked operand of values, which heads share it.
        weights: the value weights of heads with separate cores, by head.
        refusal: why a core cannot be analysed, None if all can.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.shared: Partition[int] = Partition()
        places: dict[tuple[int, int], list[int]] = defaultdict(list)
        for head, members in enumerate(block.members):
            self.shared.root(head)
            for place in members:
                places[place].append(head)
        for heads in places.values():
            # Heads of one context read the same values.
            self.shared.join(heads)
        self.query_size: int | None = None
        self.io: set[Value] = set()
        self.maps: set[Value] = set()
        self.owners: dict[Value, Live] = {}
        self.scores: set[Node] = set()
        self.probability_nodes: set[Node] = set()
        self.sharing: list[Sharing] = []
        self.weights: dict[int, set[Hashable]] = {}
        self.refusal: Refusal | None = None

    def read_fused(self, core: Core) -> None:
        """Read a fused operator, mostly from its attributes."""
        node, layout, owner = core.node, layout_of(core.node), _owners(self.block, core)
        if layout is None:
            return
        for first in range(0, layout.num_heads, layout.group):
            if heads := _known(owner[first : first + layout.group]):
                self.shared.join(heads)
        own = self._own_bits(owner)
        made = [value for index in layout.caches if (value := node.outputs[index]) is not None]
        free = {*made, *(output for value in made for output in carrier_outputs(value))}
        apart = [index for index in layout.memory if index in layout.inputs]
        apart = [index for index in apart if layout.inputs[index].runs[0].width == 1]
        free |= {value for index in apart if (value := node.inputs[index]) is not None}
        self.io |= set(filter(comes_or_goes, free))
        self._add_ends(_fused_walk(core, layout.memory, owner, own), own)
        drawn = [value for index in layout.maps if (value := node.outputs[index]) is not None]
        outputs = (value for made in drawn for value in (made, *carrier_outputs(made)))
        self.maps |= {value for value in outputs if value.is_graph_output and value.scope.parent is None}
        self.query_size = self.query_size or layout.head_size
        values = layout.inputs.get(VALUES)
        if layout.kv_num_heads == layout.num_heads and values is not None and len(values.runs) == 1:
            # What repeats KV heads before the node shows upstream of it.
            self._read_values(_fused_walk(core, (VALUES,), owner, own), own, _known(owner))

    def read_product(self, core: Core) -> None:
        """Read a product of attention weights and values."""
        owner = _owners(self.block, core)
        own = self._own_bits(owner)
        walks = _operand_walks(core, core.labelled(_bits(owner)), own)
        if isinstance(walks, Refusal):
            self.refusal = self.refusal or walks
            return
        values, weights = walks
        self.query_size = self.query_size or query_width(core)
        self._add_ends(values, own)
        self._read_values(values, own, _known(owner))
        scores = self._read_weights(weights, own)
        if self.sharing[-1] is Sharing.ONE:
            self._add_shared_ends(core.node, core.feature_axes)
            if scores is not None:
                self._add_shared_ends(scores, ())

    def _own_bits(self, owner: Sequence[int | None]) -> int:
        """The bits of all heads of a core.

        Inputs that all heads read are no evidence; other cores may have other heads. An input of one head alone
        is its own.
        """
        heads = _known(owner)
        return bits_of(heads if len(heads) > 1 else range(self.block.num_heads))

    def _read_values(self, walk: Sweep, own: int, heads: Set[int]) -> None:
        """Join heads that share values: within a core, or computed one by one from the same value weights."""
        self.sharing.append(join_shared(self.shared, walk, self.block.num_heads, own))
        if len(heads) == 1:
            self.weights.setdefault(min(heads), set()).update(weights_read(walk))

    def _read_weights(self, walk: Sweep, own: int) -> Node | None:
        """Read the nodes between scores and core, and the cache of the keys; return the product that makes scores."""
        made = {value.producer for value in walk.reached if value.producer and value.tensor is None}
        visited = sorted(made, key=lambda node: -node.index)
        scores = next((node for node in visited if is_product(node) is not None), None)
        if scores is None:
            self._add_ends(walk, own)
            return None
        self.scores.add(scores)
        self.probability_nodes |= {node for node in visited if node.index > scores.index}
        product = is_product(scores)
        assert product is not None
        lives = {index: walk.edges.get((scores.index, index), FULL) for index in product.indices}
        self._add_ends(_walk(scores, lives, own), own)
        return scores

    def _add_shared_ends(self, node: Node, features: Collection[int]) -> None:
        """Add the cache that all heads share: the outputs that hold channels of keys or values, and their pasts.

        Args:
            node: a product.
            features: the axes of its output that are channels; empty where it sums over channels.
        """
        found = core_product(node)
        assert found is not None
        letters = {found.out_axes[axis] for axis in features} or found.contracted
        for index, axes in found.terms:
            operand = node.inputs[index]
            for axis in (axis for axis, letter in enumerate(axes) if letter in letters):
                size = None if operand is None or operand.shape is None else operand.shape[axis]
                if not isinstance(size, int):
                    continue
                everyone = bits_of(range(size))
                walk = _walk(node, {index: Live.over([axis], _bits(range(size)))}, everyone)
                ends = cache_ends(walk, Labels(everyone))
                if any(value.is_graph_output for value in ends):
                    self.io |= ends.keys()

    def _add_ends(self, walk: Sweep, own: int) -> None:
        """Add the cache at the ends of a walk."""
        for value, live in cache_ends(walk, Labels(own)).items():
            self.io.add(value)
            known = self.owners.get(value)
            self.owners[value] = live if known is None else Labels(own).united(known, live)

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Heads per KV head, in order of their first head."""
        if self.sharing and all(found is Sharing.ONE for found in self.sharing):
            # One of several cores may read a table of relative positions, which has no heads: that groups none.
            self.shared.join(range(self.block.num_heads))
        alike: dict[frozenset[Hashable], list[int]] = defaultdict(list)
        for head, made in self.weights.items():
            alike[frozenset(made)].append(head)
        for weights, heads in alike.items():
            self.shared.join(heads if weights else heads[:1])
        return tuple(sorted(tuple(sorted(members)) for members in self.shared.sets()))

    @property
    def kv_known(self) -> bool:
        """True if the sharing of values is known; else each head is assumed to have its own."""
        return Sharing.UNKNOWN not in self.sharing or Sharing.KNOWN in self.sharing

    @property
    def head_size(self) -> int:
        """Width of a query or key head; that of a value head where there are no queries and keys."""
        return self.query_size or self.v_head_size

    @property
    def v_head_size(self) -> int:
        """The width of a context head; where outputs of heads are summed or mixed, that width is not the head's own."""
        tokens = max(core.tokens for core in self.block.cores)
        return max(len(channels) for channels in self.block.projections[0].channels) // tokens


def _fused_walk(core: Core, indices: Iterable[int], owner: Sequence[int | None], everyone: int) -> Sweep:
    """A label sweep up some inputs of a fused node, one bit per head; empty where its rule is unknown."""
    lives = [core.labelled(_bits(owner)), *(DEAD for _ in core.node.outputs[1:])]
    answer = ask(core.node, lives, Labels(everyone))
    if isinstance(answer, Refusal):
        return Sweep()
    inputs = {index: answer.inputs[index] for index in indices if index in answer.inputs}
    return _walk(core.node, inputs, everyone)


def _owners(block: Block, core: Core) -> list[int | None]:
    """The head that every head position of a core belongs to: a differential head has two. None if nothing reads it."""
    owner = {
        position: head
        for head, members in enumerate(block.members)
        for index, position in members
        if index == core.node.index
    }
    return [owner.get(position) for position in range(len(core.heads))]


def _known(owner: Iterable[int | None]) -> set[int]:
    return {head for head in owner if head is not None}


def _bits(owner: Sequence[int | None]) -> Array:
    return np.array([0 if head is None else bits_of([head]) for head in owner], dtype=object)


def _operand_walks(core: Core, bits: Live, everyone: int) -> tuple[Sweep, Sweep] | Refusal:
    """Label sweeps up the operand with the head's own axis (values) and up the other (weights).

    A refusal where an operand's sizes do not determine which positions belong to a head.
    """
    found = core_product(core.node)
    answer = ask(core.node, [bits], Labels(everyone))
    if isinstance(answer, Refusal):
        return answer
    assert found is not None
    value_index = core.values[0]
    lives = {index: answer.inputs.get(index, FULL) for index in found.indices}
    values = _walk(core.node, {value_index: lives.pop(value_index)}, everyone)
    return values, _walk(core.node, lives, everyone)


def _walk(node: Node, lives: Mapping[int, Live], everyone: int) -> Sweep:
    """A label sweep up some inputs of a node, one bit per head."""
    return sweep([Seed(node, index, live, "") for index, live in lives.items()], domain=Labels(everyone))


def query_width(core: Core) -> int | None:
    """The width of a query head; None where there are no queries and keys, or where weights mix maps."""
    if is_product(core.node) is None:
        return None  # stored maps have neither queries nor keys
    scores = score_products(core)
    if scores:
        return _contracted_size(scores[0])
    # Queries read a summary of keys and values: the core itself sums over them.
    return _contracted_size(core.node) if _first_products(core.node, core.values[0]) else None


def score_products(core: Core) -> list[Node]:
    """The products of queries and keys that compute a core's attention weights; none for fused operators."""
    found = is_product(core.node)
    if found is None:
        return []
    maps = (index for index in found.indices if index != core.values[0])
    return [node for index in maps for node in _first_products(core.node, index)]


def _first_products(node: Node, index: int) -> list[Node]:
    """Products upstream of an operand, nearest first, that read no other products; stops at linear layers."""
    # Linear layers, which multiply by weights, end the way.
    above = upstream(
        node.inputs[index], MAX_UPSTREAM, lambda item: is_contraction(item) and is_product(item) is None
    )
    products = [item for item in above if is_product(item) is not None]
    return [item for item in products if not _reads_products(item)]


def _reads_products(node: Node) -> bool:
    """Return whether a product multiplies results of other products, as in a matrix inverse."""
    found = is_product(node)
    return found is not None and any(_product_behind(node.inputs[index]) for index in found.indices)


def _product_behind(value: Value | None) -> bool:
    for _ in range(MAX_VIEWS):
        node = None if value is None else value.producer
        if node is None or not node.inputs:
            return False
        if contraction_of(node) is not None:
            return is_product(node) is not None
        value = node.inputs[0]
    return False


def _contracted_size(node: Node) -> int | None:
    found = contraction_of(node)
    if found is None:
        return None
    first = found.indices[0]
    shape = node.shape(first)
    if shape is None:
        return None
    sizes = [shape[axis] for axis, letter in enumerate(found.axes_of(first)) if letter in found.contracted]
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def features(core: Core) -> int | None:
    """Features that the context of one head has; None where their number is not known."""
    layout = layout_of(core.node)
    if layout is not None:
        # A fused operator may have heads and features in one axis.
        return layout.v_head_size
    shape = core.node.out.shape
    if shape is None:
        return None
    sizes = [dim for axis in core.feature_axes if isinstance(dim := shape[axis], int)]
    return math.prod(sizes) if len(sizes) == len(core.feature_axes) else None
