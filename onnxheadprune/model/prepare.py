"""Preparation of models for analysis: local functions inlined within bounds, nodes sorted, equal nodes made one.

Unoptimized exports write `split` and `unbind` by SplitToSequence and SequenceAt; chunks are taken by other operators.

A function that calls another one twice, which calls a third one twice, and so on, has 2**30 nodes after thirty steps,
in a file of a few kilobytes, so nodes are counted before anything is inlined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
import onnx.defs
import onnx.inliner
import onnx.version_converter
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.errors import ModelError, first_line
from onnxheadprune.model.bodies import constant_tensor, is_constant, names_read, nodes_in
from onnxheadprune.model.equal_nodes import without_repeats
from onnxheadprune.model.messages import copied, keep, replace_all
from onnxheadprune.model.tensors import Array

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
    removed from one of them alone. Chunks are taken from what is divided in place of sequences. Nodes are put into
    topological order, and those that repeat another are left out.
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
        raise ModelError(f"a local function cannot be inlined: {first_line(error)}") from error
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
        read.update(names_read(node) if node.attribute else node.input)
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
            needed = {producer[name] for name in names_read(graph.node[position]) if name in producer}
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


def without_sequences(model: ModelProto) -> ModelProto:
    """The model, or one in which a Gather or Slice takes each chunk that is read by a known number.

    A sequence of which something else is read stays: how many chunks there are, or which one is read, is known at run
    time only.
    """
    divided = {node.output[0]: node for node in model.graph.node if node.op_type == "SplitToSequence"}
    if not divided:
        return model
    made = copied(model)
    graph, literals = made.graph, _literals(made.graph)
    nodes = [
        chunk
        for node in graph.node
        for chunk in _chunk(node, divided.get("".join(node.input[:1])), graph, literals)
    ]
    replace_all(graph.node, nodes)
    read = {info.name for info in graph.output}.union(chain.from_iterable(map(names_read, graph.node)))
    gone = divided.keys() - read
    keep(graph.node, lambda node: gone.isdisjoint(node.output))
    keep(graph.value_info, lambda info: info.name not in gone)
    return made


def _chunk(
    reader: NodeProto, split: NodeProto | None, graph: GraphProto, literals: Mapping[str, TensorProto]
) -> list[NodeProto]:
    """The node that takes a chunk from what is divided; the reader itself where its number is not known."""
    if reader.op_type != "SequenceAt" or split is None or reader.input[1] not in literals:
        return [reader]
    number = int(numpy_helper.to_array(literals[reader.input[1]]).reshape(-1)[0])
    attributes = {item.name: helper.get_attribute_value(item) for item in split.attribute}
    axis, taken = attributes.get("axis", 0), list[Any]()
    if len(split.input) > 1 and split.input[1]:
        stored = literals.get(split.input[1])
        bounds = None if stored is None else _bounds(numpy_helper.to_array(stored), number)
        if bounds is None:
            return [reader]
        op_type, taken = "Slice", [*([bound] for bound in bounds), [axis]]
        attributes = {}
    else:
        op_type, taken = "Gather", [[number] if attributes.get("keepdims", 1) else number]
        attributes = {"axis": axis}
    names = [f"{reader.output[0]}/{op_type}_{index}" for index in range(len(taken))]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(item, np.int64), name)
        for item, name in zip(taken, names, strict=True)
    )
    inputs = [split.input[0], *names]
    return [helper.make_node(op_type, inputs, reader.output, name=reader.name, **attributes)]


def _bounds(sizes: Array, number: int) -> tuple[int, int] | None:
    """The start and the end of a chunk; None where that depends on how long the axis is."""
    if not sizes.ndim:
        size = int(sizes)
        return (number * size, number * size + size) if number >= 0 else None
    if not -len(sizes) <= number < len(sizes):
        return None
    end = int(sizes[: number % len(sizes) + 1].sum())
    return end - int(sizes[number]), end


def _literals(graph: GraphProto) -> Mapping[str, TensorProto]:
    """The stored numbers of a graph that may be sizes or positions."""
    inputs = {info.name for info in graph.input}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored |= {
        node.output[0]: tensor
        for node in graph.node
        if is_constant(node) and (tensor := constant_tensor(node)) is not None
    }
    return {
        name: tensor
        for name, tensor in stored.items()
        if tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
        and tensor.data_location != TensorProto.EXTERNAL
        and name not in inputs
    }
