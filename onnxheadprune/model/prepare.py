"""Preparation of models for analysis: local functions inlined within bounds, nodes sorted, equal nodes made one.

A function that calls another one twice, which calls a third one twice, and so on, has 2**30 nodes after thirty steps,
in a file of a few kilobytes, so nodes are counted before anything is inlined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import onnx
import onnx.defs
import onnx.inliner
import onnx.version_converter
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.equal_nodes import without_repeats
from onnxheadprune.model.messages import copied
from onnxheadprune.model.sequences import without_sequences

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


def prepared(model: ModelProto) -> ModelProto:
    """The model if it is ready for analysis, else an equal one that is.

    Local functions are inlined: a head that lives in a function body shared by several layers could not be
    removed from one of them alone. Sequences of chunks become Splits. Nodes are put into topological order, and those
    that repeat another are left out.
    """
    if model.functions:
        _check_calls(model)
        model = _inlined(model)
    return without_repeats(_in_order(without_sequences(model)))


def _inlined(model: ModelProto) -> ModelProto:
    """A model with its local functions in place of their calls.

    A body means what the operator sets of its model say: ONNX asks that those of a function define what it uses
    alike, and ONNX Runtime does not look at them. ONNX's inliner leaves out functions that import other versions,
    also of domains that hold nothing but local functions.
    """
    aligned = copied(model)
    local = {item.domain for item in model.functions}
    versions = {_domain(item.domain): item.version for item in model.opset_import}
    for function in aligned.functions:
        for item in function.opset_import:
            known = versions.setdefault(_domain(item.domain), item.version)
            if item.domain not in local and item.version != known:
                _check_versions(function, _domain(item.domain), item.version, known)
            item.version = known
    try:
        made = onnx.inliner.inline_local_functions(aligned)
    except (ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"a local function cannot be inlined: {reason[0].rstrip('.')}") from error
    for domain in versions.keys() - {_domain(item.domain) for item in made.opset_import}:
        made.opset_import.add(domain=domain, version=versions[domain])
    if made.functions:
        raise ModelError(f"the local function {made.functions[0].name!r} cannot be inlined")
    return made


def _check_versions(function: FunctionProto, domain: str, version: int, known: int) -> None:
    """Check whether what a body uses of a domain is the same in the version that its model imports."""
    for node in nodes_in(function.node):
        if _domain(node.domain) == domain and not _is_alike(node, domain, version, known):
            raise ModelError(
                f"the local function {function.name!r} imports version {version} of ONNX's operators and the model"
                f" version {known}, in which {node.op_type} is another operator; export the model with one version"
            )


def _is_alike(node: NodeProto, domain: str, version: int, known: int) -> bool:
    try:
        first, second = (onnx.defs.get_schema(node.op_type, item, domain) for item in (version, known))
    except onnx.defs.SchemaError:
        return True
    if first.since_version == second.since_version:
        return True
    # Most versions only add types: of these, the converter leaves a node as it is.
    anything = onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=onnx.TensorProto.FLOAT))
    values = [
        [onnx.ValueInfoProto(name=name, type=anything) for name in filter(None, names)]
        for names in (node.input, node.output)
    ]
    graph = GraphProto(name="alike", node=[node], input=values[0], output=values[1])
    one = ModelProto(
        ir_version=8, graph=graph, opset_import=[onnx.OperatorSetIdProto(domain=domain, version=version)]
    )
    try:
        converted = onnx.version_converter.convert_version(one, known)
    except Exception:  # the converter raises plain RuntimeErrors
        return False
    return [(item.op_type, item.input, item.attribute) for item in converted.graph.node] == [
        (node.op_type, node.input, node.attribute)
    ]


def _check_calls(model: ModelProto) -> None:
    """Check whether a model can be inlined within bounds."""
    counts = _Counter({_id(function): function for function in model.functions})
    made = counts.of_nodes(model.graph.node, ())
    own = sum(node.ByteSize() for place in (model.graph, *model.functions) for node in place.node)
    if made.nodes > MAX_NODES or made.bytes - own > MAX_BYTES:
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


def _in_order(model: ModelProto) -> ModelProto:
    """The model itself, or a copy with its nodes in topological order.

    ONNX asks for that order, but some converters append their nodes at the end and ONNX Runtime sorts
    silently. A graph that is in order already is not changed.
    """
    if _is_ordered(model.graph):
        return model
    order = _order(model.graph)
    if order == list(range(len(order))):
        return model
    copy = copied(model)
    del copy.graph.node[:]
    copy.graph.node.extend(model.graph.node[position] for position in order)
    return copy


def _is_ordered(graph: GraphProto) -> bool:
    """Return whether no node reads the output of a later one: one pass, true for almost all models."""
    read: set[str] = set()
    for node in graph.node:
        read.update(_names_read(node) if node.attribute else node.input)
        read.discard("")
        if not read.isdisjoint(node.output):
            return False
    return True


def _order(graph: GraphProto) -> list[int]:
    """The positions of the nodes in a topological order."""
    producer = {name: position for position, node in enumerate(graph.node) for name in node.output if name}
    order: list[int] = []
    state = [0] * len(graph.node)
    for start in range(len(graph.node)):
        stack = [start]
        while stack:
            position = stack[-1]
            if state[position] == 2:
                stack.pop()
                continue
            needed = {producer[name] for name in _names_read(graph.node[position]) if name in producer}
            waiting = sorted(other for other in needed if state[other] != 2 and other != position)
            if not waiting:
                state[position] = 2
                order.append(position)
                stack.pop()
            elif state[position] == 1:
                node = graph.node[position]
                raise ModelError(f"the graph has a cycle through node {node.name!r} ({node.op_type})")
            else:
                state[position] = 1
                stack += reversed(waiting)
    return order


def _names_read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those of its bodies included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _names_read(inner)
            yield from (output.name for output in attribute.g.output)
