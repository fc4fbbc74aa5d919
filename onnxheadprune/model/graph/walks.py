"""Walks through a graph: all that can be reached, in any order or in that of the graph, and along one way."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from onnxheadprune.model.graph.operator import Kind
from onnxheadprune.model.graph.view import Node, Value

Item = TypeVar("Item")


def reachable(
    starts: Iterable[Item], following: Callable[[Item], Iterable[Item]], most: float = math.inf
) -> Iterator[Item]:
    """Yield some items and all that can be reached from them, nearest first.

    Args:
        starts: where to begin: values, nodes, or either of them with what is known there.
    """
    queue = deque(dict.fromkeys(starts))
    seen = set(queue)
    while queue and len(seen) <= most:
        item = queue.popleft()
        yield item
        for other in following(item):
            if other not in seen:
                seen.add(other)
                queue.append(other)


def in_graph_order(starts: Iterable[Node], following: Callable[[Node], Iterable[Node]]) -> Iterator[Node]:
    """Yield some nodes and all that can be reached from them downstream, each once, in the order of the graph.

    `following` is asked of a node only after the caller has seen it, and whoever reads it then comes later.
    """
    first = dict.fromkeys(starts)
    waiting = [(node.index, node) for node in first]
    seen = set(first)
    heapq.heapify(waiting)
    while waiting:
        node = heapq.heappop(waiting)[1]
        yield node
        for other in following(node):
            if other not in seen:
                seen.add(other)
                heapq.heappush(waiting, (other.index, other))


def along(start: Item, following: Callable[[Item], Item | None]) -> Iterator[Item]:
    """Yield an item and what follows it, one after the other, to the last one."""
    item: Item | None = start
    while item is not None:
        yield item
        item = following(item)


def back_through(value: Value | None, kind: Kind, most: int = 2**16) -> Iterator[Node]:
    """Yield the producers of a value along first inputs, nearest first, to the first of another kind."""
    for _ in range(most):
        node = None if value is None else value.producer
        if node is None:
            return
        yield node
        if node not in kind:
            return
        value = node.input(0)


def stored_behind(value: Value | None) -> Value | None:
    """The end of the chain of first inputs behind a value: the tensor that is transposed, cast or dequantized."""
    while (
        value is not None and not value.holds_tensor and value.producer is not None and value.producer.inputs
    ):
        value = value.producer.inputs[0]
    return value
