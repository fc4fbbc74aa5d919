"""Heads that share keys and values: where the walk up the values of a core ends.

Unknown is not shared. That one KV head serves all heads is known where their bits meet in one element, and nowhere
else: an operator that does not pass bits on has proven nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_

from onnxheadprune.attention.sites.evidence import stored_weights
from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.swept import Sweep
from onnxheadprune.model.graph.view import Node, Use, Value


class Sharing(enum.Enum):
    """The result of a walk up the values of a core."""

    KNOWN = "known"
    """Heads are told apart at the end of the walk; those whose bits meet were joined."""
    ONE = "one"
    """One KV head serves all heads."""
    UNKNOWN = "unknown"
    """The bits were lost on the way."""


def bits_of(heads: Iterable[int]) -> int:
    """A set of heads as one number: bit `h` stands for head `h`."""
    return reduce(or_, (1 << head for head in heads), 0)


def _heads_of(bits: int) -> Iterator[int]:
    """The heads of such a number, one after the other: thousands may be there, and few in one number."""
    while bits > 0:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def join_shared(groups: Partition[int], walk: Sweep, num_heads: int, everyone: int) -> Sharing:
    """Heads whose bits meet in one element share that element: they are one KV group.

    Args:
        groups: what is known so far.
        walk: a label sweep up the values of a core.
        num_heads: heads of the block.
        everyone: the bits of all heads of the core.
    """
    known = labelled = False
    for value, live in _leaves(walk):
        found = _bits(live)
        if live.is_mask or found <= {0, everyone}:
            # Read by all heads, or in part by all of them: tokens that are cut off are nobody's.
            continue
        labelled = True
        known = known or value.producer not in walk.refusals
        for bits in found:
            shared = [head for head in _heads_of(bits) if head < num_heads]
            if len(shared) > 1:
                groups.join(shared)
    if labelled:
        return Sharing.KNOWN if known else Sharing.UNKNOWN
    return Sharing.UNKNOWN if any(_loses(node, walk) for node in walk.answers) else Sharing.ONE


def weights_read(walk: Sweep) -> frozenset[tuple[Value, tuple[int, ...], bytes]]:
    """The stored tensors at the ends of a walk, and where in them it ends; none where an operator stops it."""
    if walk.refusals:
        return frozenset()
    leaves = ((value, live.as_mask()) for value, live in _leaves(walk) if value.holds_tensor)
    return frozenset((value, live.axes, live.array.tobytes()) for value, live in leaves)


def _bits(live: Live) -> set[int]:
    return {int(item) for item in live.array.reshape(-1)}


def _leaves(walk: Sweep) -> Iterator[tuple[Value, Live]]:
    """Liveness of what the walk ends at: stored tensors, graph inputs, outputs of unknown operators."""
    behind = _behind_weights(walk)
    weighted = any(value.holds_tensor and walk.kept[value].axes for value in walk.reached)
    for value in walk.reached:
        unknown = value.producer in walk.refusals and not weighted
        if value not in behind and (value.producer is None or value.holds_tensor or unknown):
            yield value, walk.kept[value]


def _behind_weights(walk: Sweep) -> set[Value]:
    """Activations behind labelled weights: all heads read them, and sharing those couples nothing."""
    behind: set[Value] = set()

    def hides(use: Use) -> bool:
        weights = stored_weights(use.node)
        if use.input_index not in weights and any(_labelled(walk, use.node, index) for index in weights):
            return True
        return any(output in behind for output in use.node.outputs)

    # Nearest to the core first, so that all readers of a value were looked at before it.
    for value in sorted(walk.reached, key=lambda item: -1 if item.producer is None else item.producer.index)[
        ::-1
    ]:
        uses = [use for use in value.consumers if (use.node.index, use.input_index) in walk.edges]
        if not value.holds_tensor and uses and all(map(hides, uses)):
            behind.add(value)
    return behind


def _labelled(walk: Sweep, node: Node, index: int) -> bool:
    live = walk.edges.get((node.index, index))
    return live is not None and bool(live.axes)


def _loses(node: Node, walk: Sweep) -> bool:
    """Return whether bits of heads end at a node that does not say whose any input is."""
    asked = [walk.kept[value] for value in node.results if value in walk.kept]
    if not any(live.axes for live in asked):
        return False
    wanted = reduce(or_, (bits for live in asked for bits in _bits(live)), 0)
    answer = walk.answers[node]
    passed = [live for live in (*answer.inputs.values(), *answer.bodies.values()) if not live.is_mask]
    return bool(wanted & ~reduce(or_, (bits for live in passed for bits in _bits(live)), 0))
