"""Equal nodes are one: two with the same operator, attributes and inputs compute the same value.

Decompositions of exporters repeat what they need, for instance an attention map for each of two products that read it.
Analyses identify values by the node that computes them, so a repeated node would hide that its value is the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from onnxheadprune.model.bodies import bodies_of, graphs_in, is_constant, stored_tensor
from onnxheadprune.model.graph.operator import is_random, opset_of, schema_of
from onnxheadprune.model.messages import copied, keep, replace_all
from onnxheadprune.model.storage.tensors import is_outside

MAX_COMPARED = 4096
"""Stored integers up to this many are equal if their numbers are."""
_INTEGERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}


class _Repeated(NamedTuple):
    """The nodes of a graph that repeat earlier ones: their positions, and the names that their readers should read."""

    positions: frozenset[int]
    names: Mapping[str, str]


def without_repeats(model: ModelProto) -> ModelProto:
    """The model, or a copy without nodes that repeat an earlier node of the same graph.

    Nodes stay that draw numbers, are of other domains, hold bodies or compute an output.
    """
    opset = opset_of(model)
    found = list(_repeated(model.graph, opset, {}, {}))
    if not any(item.positions for item in found):
        return model
    made = copied(model)
    released: set[str] = set()
    # Bodies first: those of a graph whose nodes are replaced are copies.
    for graph, repeated in reversed(list(zip(graphs_in(made.graph), found, strict=True))):
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name in repeated.names:
                    node.input[index] = repeated.names[name]
        # A body may output a value of the graph around it.
        for info in graph.output:
            info.name = repeated.names.get(info.name, info.name)
        if repeated.positions:
            released.update(name for at in repeated.positions for name in graph.node[at].input)
            kept = (node for at, node in enumerate(graph.node) if at not in repeated.positions)
            replace_all(graph.node, kept)
            declared = [info for info in graph.value_info if info.name not in repeated.names]
            replace_all(graph.value_info, declared)
    _leave_out_constants(made.graph, released)
    return made


def _leave_out_constants(graph: GraphProto, released: set[str]) -> None:
    """Take from a graph the constants with these names that nothing reads: each repeated node may have its own."""
    graphs = list(graphs_in(graph))
    read = {name for item in graphs for node in item.node for name in node.input}
    read |= {info.name for item in graphs for info in (*item.output, *item.input)}
    unread = released - read
    for item in reversed(graphs) if unread else ():
        keep(item.node, lambda node: not (is_constant(node) and node.output[0] in unread))
        keep(item.initializer, lambda tensor: tensor.name not in unread)
        keep(item.value_info, lambda info: info.name not in unread)


def _repeated(
    graph: GraphProto, opset: int, outer: Mapping[str, str], stored: Mapping[str, Hashable]
) -> Iterator[_Repeated]:
    """Yield what is repeated in a graph and, after it, in the bodies in it, in the order of `graphs_in`.

    Args:
        outer: the names that readers of repeated values of the graphs around it should read.
        stored: the contents of small constants around it, by name.
    """
    own = {info.name for info in graph.input}
    numbers = {item.name: _numbers(item) for item in graph.initializer if item.name not in own}
    names, contents = dict(outer), dict(stored)
    if outer or stored:
        for name in (*own, *numbers, *(name for node in graph.node for name in node.output)):
            names.pop(name, None)
            contents.pop(name, None)
    contents |= {name: key for name, key in numbers.items() if key is not None}
    outputs = {info.name for info in graph.output}
    # Attributes are read only where operators and inputs are equal: most nodes are told apart by these.
    alike: dict[Hashable, dict[Hashable, NodeProto] | NodeProto] = {}
    positions: set[int] = set()
    owners: list[NodeProto] = []
    for position, node in enumerate(graph.node):
        made = tuple(node.output)
        if is_constant(node):
            key = _literal(node)
            if key is not None:
                contents[made[0]] = key
            continue
        if node.attribute and next(bodies_of(node), None) is not None:
            owners.append(node)
            continue
        if not outputs.isdisjoint(made):
            continue
        read = tuple(contents.get(name) or names.get(name, name) for name in node.input)
        key = node.op_type, node.domain, read
        others = alike.setdefault(key, node)
        if others is node or not _is_determined(node, opset):
            continue
        if isinstance(others, NodeProto):
            others = alike[key] = {_details(others): others}
        before = others.setdefault(_details(node), node)
        if before is not node:
            positions.add(position)
            names.update(zip(filter(None, made), filter(None, before.output), strict=True))
    yield _Repeated(frozenset(positions), names)
    for node in owners:
        for body in bodies_of(node):
            yield from _repeated(body, opset, names, contents)


def _is_determined(node: NodeProto, opset: int) -> bool:
    """Return whether the inputs and attributes of a node say what it computes."""
    schema = None if node.domain not in ("", "ai.onnx") else schema_of(node.op_type, opset)
    if schema is None or not node.output:
        return False
    modes = (at for at, item in enumerate(schema.inputs) if item.name == "training_mode")
    return not is_random(node.op_type, opset) and not any(any(node.input[at : at + 1]) for at in modes)


def _details(node: NodeProto) -> Hashable:
    """Return a node's attributes, and which of its optional outputs it has."""
    given = tuple(bool(name) for name in node.output)
    return given, frozenset(item.SerializeToString(deterministic=True) for item in node.attribute)


def _literal(node: NodeProto) -> Hashable | None:
    """The contents of a Constant with integers or a single number, which is no weight; None for another."""
    tensor = stored_tensor(node)
    if tensor is not None:
        return _numbers(tensor, single=True)
    return tuple(item.SerializeToString(deterministic=True) for item in node.attribute)


def _numbers(tensor: TensorProto, single: bool = False) -> Hashable | None:
    """The contents of a small tensor of integers, which is no weight; None for other tensors.

    Args:
        single: whether to give those of a single number of another type, too.
    """
    size = math.prod(tensor.dims)
    integers = tensor.data_type in _INTEGERS and size <= MAX_COMPARED
    if (
        not (integers or (single and size == 1))
        or is_outside(tensor)
        or tensor.data_type == TensorProto.STRING
    ):
        return None
    numbers = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
    return tensor.data_type, tuple(tensor.dims), numbers
