"""Local functions are inlined before anything is looked at; how much that makes is counted first.

A function that calls another one twice, which calls a third one twice, and so on, has 2**30 nodes after thirty
steps, in a file of a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from onnx import FunctionProto, ModelProto, NodeProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.bodies import nodes_in

MAX_NODES = 2_000_000
"""Nodes of a model whose functions are inlined. A graph of a million takes some 20 seconds and 1.6 GB."""
MAX_BYTES = 2**28
"""Bytes that the nodes of inlined bodies take, weights in them included."""
MAX_CALLS = 64
"""Calls within calls; exporters nest modules less than twenty deep."""

Function: TypeAlias = tuple[str, str, str]


class Size(NamedTuple):
    """The size of an inlined graph: nodes, and the bytes that they take."""

    nodes: int
    bytes: int


def check_calls(model: ModelProto) -> None:
    """Check whether a model can be inlined within bounds.

    Raises:
        ModelError: if a function calls itself, or more would come out than can be looked at.
    """
    counts = _Counter({_id(function): function for function in model.functions})
    made = counts.of_nodes(model.graph.node, ())
    if made.nodes > MAX_NODES or made.bytes - model.graph.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"with its local functions inlined the graph would have {_spelled(made.nodes)} nodes of"
            f" {_spelled(made.bytes)} bytes, and this tool reads up to {MAX_NODES:,} and {MAX_BYTES:,} more than the"
            " file's own; export the model without functions that call others many times"
        )


def _spelled(number: int) -> str:
    return f"{number:,}" if number < 2**63 else "more than 2**63"


class _Counter:
    def __init__(self, functions: dict[Function, FunctionProto]) -> None:
        self.functions = functions
        self.known: dict[Function, Size] = {}

    def of_nodes(self, nodes: Iterable[NodeProto], callers: tuple[Function, ...]) -> Size:
        nodes_made = bytes_made = 0
        for node in nodes_in(nodes):
            key = (_domain(node.domain), node.op_type, node.overload)
            size = self._of_call(key, callers) if key in self.functions else Size(1, node.ByteSize())
            nodes_made, bytes_made = nodes_made + size.nodes, bytes_made + size.bytes
        return Size(nodes_made, bytes_made)

    def _of_call(self, key: Function, callers: tuple[Function, ...]) -> Size:
        if key in callers:
            raise ModelError(f"the local function {key[1]!r} calls itself")
        if len(callers) >= MAX_CALLS:
            raise ModelError(f"local functions call each other more than {MAX_CALLS} deep")
        if key not in self.known:
            self.known[key] = self.of_nodes(self.functions[key].node, (*callers, key))
        return self.known[key]


def _id(function: FunctionProto) -> Function:
    return _domain(function.domain), function.name, function.overload


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
