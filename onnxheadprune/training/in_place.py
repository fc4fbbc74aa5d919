"""Arithmetic as ONNX text, and what it says done to tensors where they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.resident import Resident, ResidentSession, home_of


def nodes_of(text: str, spelled: Callable[[str], str]) -> list[NodeProto]:
    """The nodes of some lines.

    Args:
        text: a node per line, as in "sum = Add(one, other)".
        spelled: what a name of the text is called in the model.
    """
    nodes = [parser.parse_node(line) for line in text.splitlines() if line.strip()]
    for node in nodes:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = spelled(name)
    return nodes


def in_place(
    text: str,
    tensors: Mapping[str, Sequence[Resident]],
    changed: Collection[str],
    shared: Mapping[str, float | None],
    provider: Provider,
) -> ResidentSession:
    """A session that changes some tensors as a text says of one; see `model_of`.

    Args:
        text: a node per line.
        tensors: in float32, by the names that the text has for them.
        changed: the names of those that are changed.
        shared: numbers that all of them share, by name; None for those that each run is given.
        provider: of the tensors.
    """
    shapes = [item.shape for item in next(iter(tensors.values()))]
    # As it is written: what a node reads, and when, must not be rearranged.
    session = Session(
        model_of(text, shapes, (*tensors,), changed, shared), home_of(provider), name="the optimizer"
    )
    inputs = {f"{name}.{at}": item for name, items in tensors.items() for at, item in enumerate(items)}
    outputs = {f"new_{name}.{at}": item for name in changed for at, item in enumerate(tensors[name])}
    return ResidentSession(session, inputs, outputs)


def model_of(
    text: str,
    shapes: Sequence[tuple[int, ...]],
    given: Collection[str],
    changed: Collection[str],
    shared: Mapping[str, float | None],
) -> ModelProto:
    """The model that applies a text to many tensors: `x.0` is the `x` of the first, and `new_x.0` its new value."""
    graph = helper.make_graph([], "in_place", [], [])
    for number, shape in enumerate(shapes):
        graph.node.extend(nodes_of(text, partial(_spelled, shared, number)))
        for where, names in ((graph.input, given), (graph.output, (f"new_{name}" for name in changed))):
            where.extend(
                helper.make_tensor_value_info(f"{name}.{number}", TensorProto.FLOAT, shape) for name in names
            )
    for name, value in shared.items():
        if value is None:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ()))
        else:
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _spelled(shared: Collection[str], number: int, name: str) -> str:
    return name if name in shared else f"{name}.{number}"
