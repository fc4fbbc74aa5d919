"""Parts of a graph: some of its nodes, with inputs where others are missing and outputs where nobody reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune.edit.extract import read_by
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.workflow.reducing.values import Types


def part_of(model: ModelProto, kept: Iterable[int], types: Types) -> ModelProto | None:
    """The model of some nodes; None if that is none, or the type of an input is not known.

    Args:
        model: the whole.
        kept: positions of nodes of the main graph, in order.
        types: of its values.
    """
    return assembled(model, [model.graph.node[position] for position in kept], types)


def assembled(model: ModelProto, nodes: list[NodeProto], types: Types) -> ModelProto | None:
    """A model of these nodes, with what else of the model they need.

    Args:
        model: where the rest comes from.
        nodes: in topological order.
        types: of values that were computed before and are inputs now.
    """
    graph = model.graph
    wanted = {name for node in nodes for name in read_by(node)} | {info.name for info in graph.output}
    # A constant that nobody reads is no end that anybody would look at.
    nodes = [node for node in nodes if node.input or wanted.intersection(node.output)]
    made = {name for node in nodes for name in node.output if name}
    read = Counter(name for node in nodes for name in sorted(read_by(node)))
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {sparse.values.name for sparse in graph.sparse_initializer}
    declared = [info for info in graph.input if info.name in read]
    given = {info.name for info in declared}
    missing = [name for name in read if name not in made | stored | given]
    told = [info for info in graph.output if info.name in made]
    kept = {info.name for info in told}
    ends = [name for node in nodes for name in node.output if name and name not in read and name not in kept]
    if not nodes or not (told or ends) or any(name not in types for name in (*missing, *ends)):
        return None
    part = ModelProto()
    part.CopyFrom(_frame(model))
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    part.graph.sparse_initializer.extend(
        sparse for sparse in graph.sparse_initializer if sparse.values.name in read
    )
    part.graph.input.extend([*declared, *(types[name] for name in missing)])
    part.graph.output.extend([*told, *(types[name] for name in ends)])
    inner = made - kept - set(ends)
    part.graph.value_info.extend(info for info in graph.value_info if info.name in inner)
    return part


def _frame(model: ModelProto) -> ModelProto:
    """All of a model but its graph; functions that nobody calls are harmless."""
    frame = ModelProto(ir_version=model.ir_version)
    frame.opset_import.extend(model.opset_import)
    frame.functions.extend(model.functions)
    frame.graph.name = model.graph.name
    return frame


def bypassed(model: ModelProto, position: int, types: Types) -> list[ModelProto]:
    """Models in which readers of a node read one of its inputs instead, which has the same type and shape."""
    node = model.graph.node[position]
    outputs = [name for name in node.output if name]
    if len(outputs) != 1 or outputs[0] not in types:
        return []
    (output,) = outputs
    wanted = types[output].type
    alike = [name for name in dict.fromkeys(node.input) if name in types and types[name].type == wanted]
    found = []
    for name in alike:
        nodes = []
        for other in (*model.graph.node[:position], *model.graph.node[position + 1 :]):
            copy = NodeProto()
            copy.CopyFrom(other)
            _read_instead(copy, output, name)
            nodes.append(copy)
        part = assembled(model, nodes, types)
        if part is not None:
            found.append(part)
    return found


def _read_instead(node: NodeProto, old: str, new: str) -> None:
    node.input[:] = [new if name == old else name for name in node.input]
    for body in bodies_of(node):
        for inner in body.node:
            _read_instead(inner, old, new)
        _give_instead(body, old, new)


def _give_instead(body: GraphProto, old: str, new: str) -> None:
    for info in body.output:
        if info.name == old:
            info.name = new


def without_input(model: ModelProto, position: int, index: int, types: Types) -> ModelProto | None:
    """The model in which a node goes without one of its inputs."""
    nodes = list(model.graph.node)
    copy = NodeProto()
    copy.CopyFrom(nodes[position])
    copy.input[index] = ""
    while copy.input and not copy.input[-1]:
        copy.input.pop()
    nodes[position] = copy
    return assembled(model, nodes, types)


def opened(model: ModelProto, position: int, types: Types) -> Iterator[ModelProto]:
    """Models in which the nodes of one body of a node stand in its place.

    What a body gives takes the place of what the node gives where the body has no inputs of its own (a branch). Of
    other bodies (loops), inputs become inputs of the model, and so does what the node gave.
    """
    node = model.graph.node[position]
    for body in bodies_of(node):
        inner = []
        for item in body.node:
            copy = NodeProto()
            copy.CopyFrom(item)
            inner.append(copy)
        if not body.input:
            for info, name in zip(body.output, node.output, strict=False):
                _call(inner, info.name, name)
        whole = ModelProto()
        whole.CopyFrom(model)
        whole.graph.initializer.extend(body.initializer)
        whole.graph.value_info.extend(body.value_info)
        nodes = [*model.graph.node[:position], *inner, *model.graph.node[position + 1 :]]
        told = {info.name: info for info in (*body.value_info, *body.output, *body.input)}
        part = assembled(whole, nodes, {**types, **told})
        if part is not None:
            yield part


def _call(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    """Gives a value of some nodes another name."""
    for node in nodes:
        node.output[:] = [new if name == old else name for name in node.output]
        _read_instead(node, old, new)


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes of a model, those of bodies and functions included."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for body in bodies_of(node) for inner in body.node]
