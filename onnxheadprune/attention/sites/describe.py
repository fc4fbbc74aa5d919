"""The parts of a site, from label sweeps: KV groups, widths, caches, attention maps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from onnxheadprune.attention.sites.caches import (
    Sharing,
    bits_of,
    cache_ends,
    fused_anatomy,
    join_shared,
    weights_read,
)
from onnxheadprune.attention.sites.core import MAX_UPSTREAM, MAX_VIEWS, Core
from onnxheadprune.attention.sites.grouping import Block, Partition
from onnxheadprune.attention.sites.products import core_product, is_contraction, is_product, upstream
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


@dataclass(frozen=True)
class Anatomy:
    """The values upstream of the cores of a block."""

    groups: tuple[tuple[int, ...], ...]  # heads per KV head, in order of their first head
    head_size: int  # width of a query or key head; that of a value head where there are no queries and keys
    v_head_size: int  # width of a context head
    free: frozenset[Value]  # graph inputs and outputs on the key and value paths
    scores: frozenset[Node]  # the products of queries and keys
    probability_nodes: frozenset[Node]  # nodes between these and the core
    maps: frozenset[Value] = frozenset()  # graph outputs with attention maps of fused cores
    # the head at each position of these, one bit per head, where known
    lying: Mapping[Value, Live] = field(default_factory=dict)
    kv_known: bool = True  # whether the sharing of values is known; else each head is assumed to have its own


def anatomy(block: Block) -> Anatomy | Refusal:
    """Walk from the cores of a block up both operands. A refusal if inputs of heads cannot be distinguished."""
    survey = _Survey(block)
    for core in block.cores:
        if is_fused(core.node):
            survey.read_fused(core)
        else:
            survey.read_product(core)
    return survey.refusal or survey.summary()


class _Survey:
    """Collects properties of a block's heads, core by core.

    Attributes:
        block: the block.
        groups: heads that are known to share a KV head.
        head_size: width of a query or key head, once known.
        free, maps, scores, probability_nodes, lying: as in `Anatomy`.
        sharing: for each walked operand of values, which heads share it.
        weights: the value weights of heads with separate cores, by head.
        refusal: why a core cannot be analysed, None if all can.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.groups: Partition[int] = Partition()
        places: dict[tuple[int, int], list[int]] = defaultdict(list)
        for head, members in enumerate(block.members):
            self.groups.root(head)
            for place in members:
                places[place].append(head)
        for heads in places.values():
            # Heads of one context read the same values.
            self.groups.join(heads)
        self.head_size: int | None = None
        self.free: set[Value] = set()
        self.maps: set[Value] = set()
        self.lying: dict[Value, Live] = {}
        self.scores: set[Node] = set()
        self.probability_nodes: set[Node] = set()
        self.sharing: list[Sharing] = []
        self.weights: dict[int, set[Hashable]] = {}
        self.refusal: Refusal | None = None

    def read_fused(self, core: Core) -> None:
        """Read a fused operator, mostly from its attributes."""
        fused, owner = fused_anatomy(core.node), _owners(self.block, core)
        for shared in fused.groups:
            if heads := _known(owner[position] for position in shared):
                self.groups.join(heads)
        own = self._own_bits(owner)
        self.free |= fused.free
        self._add_ends(_fused_walk(core, fused.memory, owner, own), own)
        self.maps |= fused.maps
        self.head_size = self.head_size or fused.head_size
        if fused.value is not None:
            # What repeats KV heads before the node shows upstream of it.
            self._read_values(_fused_walk(core, (fused.value,), owner, own), own, _known(owner))

    def read_product(self, core: Core) -> None:
        """Read a product of attention weights and values."""
        owner = _owners(self.block, core)
        own = self._own_bits(owner)
        walks = _operand_walks(core, core.labelled(_bits(owner)), own)
        if isinstance(walks, Refusal):
            self.refusal = self.refusal or walks
            return
        values, weights = walks
        self.head_size = self.head_size or query_width(core)
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
        self.sharing.append(join_shared(self.groups, walk, self.block.num_heads, own))
        if len(heads) == 1:
            self.weights.setdefault(min(heads), set()).update(weights_read(walk))

    def _read_weights(self, walk: Sweep, own: int) -> Node | None:
        """Read the nodes between scores and core, and the cache of the keys; return the product that makes scores."""
        visited = _visited(walk)
        scores = next((node for node in visited if is_product(node) is not None), None)
        if scores is None:
            self._add_ends(walk, own)
            return None
        self.scores.add(scores)
        self.probability_nodes |= {node for node in visited if node.index > scores.index}
        self._add_ends(_walk_from(scores, walk, own), own)
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
                labels = Labels(bits_of(range(size)))
                walk = sweep([Seed(node, index, Live.over([axis], _bits(range(size))), "")], domain=labels)
                ends = cache_ends(walk, labels)
                if any(value.is_graph_output for value in ends):
                    self.free |= ends.keys()

    def _add_ends(self, walk: Sweep, own: int) -> None:
        """Add the cache at the ends of a walk."""
        for value, live in cache_ends(walk, Labels(own)).items():
            self.free.add(value)
            known = self.lying.get(value)
            self.lying[value] = live if known is None else Labels(own).united(known, live)

    def summary(self) -> Anatomy:
        """Return the combined result of all cores."""
        if self.sharing and all(found is Sharing.ONE for found in self.sharing):
            # One of several cores may read a table of relative positions, which has no heads: that groups none.
            self.groups.join(range(self.block.num_heads))
        alike: dict[frozenset[Hashable], list[int]] = defaultdict(list)
        for head, made in self.weights.items():
            alike[frozenset(made)].append(head)
        for weights, heads in alike.items():
            self.groups.join(heads if weights else heads[:1])
        groups = sorted(tuple(sorted(members)) for members in self.groups.sets())
        v_head_size = self._value_width()
        return Anatomy(
            tuple(groups),
            self.head_size or v_head_size,
            v_head_size,
            frozenset(self.free),
            frozenset(self.scores),
            frozenset(self.probability_nodes),
            frozenset(self.maps),
            self.lying,
            Sharing.UNKNOWN not in self.sharing or Sharing.KNOWN in self.sharing,
        )

    def _value_width(self) -> int:
        """The width of a context head; where outputs of heads are summed or mixed, that width is not the head's own."""
        core, projection = self.block.cores[0], self.block.projections[0]
        own = features(core) if self.block.mixed else None
        tokens = max(core.tokens for core in self.block.cores)
        return own or max(len(channels) for channels in projection.channels) // tokens


def _fused_walk(core: Core, indices: Iterable[int], owner: Sequence[int | None], everyone: int) -> Sweep:
    """A label sweep up some inputs of a fused node, one bit per head; empty where its rule is unknown."""
    lives = [core.labelled(_bits(owner)), *(DEAD for _ in core.node.outputs[1:])]
    answer = ask(core.node, lives, Labels(everyone))
    if isinstance(answer, Refusal):
        return Sweep()
    return sweep(
        [Seed(core.node, index, answer.inputs[index], "") for index in indices if index in answer.inputs],
        domain=Labels(everyone),
    )


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
    feature = found.out_axes[core.feature_axes[0]]
    value_index = found.owners(feature)[0]
    others = [index for index in found.indices if index != value_index]
    walks = [
        sweep(
            [Seed(core.node, index, answer.inputs.get(index, FULL), "") for index in indices],
            domain=Labels(everyone),
        )
        for indices in ([value_index], others)
    ]
    return walks[0], walks[1]


def _visited(walk: Sweep) -> list[Node]:
    """Computing nodes of a walk, nearest to the core first."""
    nodes = {value.producer for value in walk.reached if value.producer is not None and value.tensor is None}
    return sorted(nodes, key=lambda node: -node.index)


def _walk_from(scores: Node, walk: Sweep, everyone: int) -> Sweep:
    """The walk continued from the operands of the score product alone."""
    found = is_product(scores)
    assert found is not None
    return sweep(
        [Seed(scores, index, walk.edges.get((scores.index, index), FULL), "") for index in found.indices],
        domain=Labels(everyone),
    )


def query_width(core: Core) -> int | None:
    """The width of a query head; None where there are no queries and keys, or where weights mix maps."""
    found = is_product(core.node)
    if found is None:
        return None  # stored maps have neither queries nor keys
    values = found.owners(found.out_axes[core.feature_axes[0]])[0]
    scores = score_products(core)
    if scores:
        return _contracted_size(scores[0])
    # Queries read a summary of keys and values: the core itself sums over them.
    return _contracted_size(core.node) if _first_products(core.node, values) else None


def score_products(core: Core) -> list[Node]:
    """The products of queries and keys that compute a core's attention weights; none for fused operators."""
    found = is_product(core.node)
    if found is None:
        return []
    values = found.owners(found.out_axes[core.feature_axes[0]])[0]
    return [node for index in found.indices if index != values for node in _first_products(core.node, index)]


def _first_products(node: Node, index: int) -> list[Node]:
    """Products upstream of an operand, nearest first, that read no other products; stops at linear layers."""
    above = upstream(node.inputs[index], MAX_UPSTREAM, _is_weighted)
    products = [item for item in above if is_product(item) is not None]
    return [item for item in products if not _reads_products(item)]


def _is_weighted(node: Node) -> bool:
    """Return whether a node is a linear layer: a contraction with weights."""
    return is_contraction(node) and is_product(node) is None


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
