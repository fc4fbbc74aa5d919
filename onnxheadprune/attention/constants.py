"""Numbers that follow from stored tensors: whatever operators lie between, ONNX Runtime computes them."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, helper

from onnxheadprune.errors import InferenceError, RefusedError
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import CPU, Provider, Session

IR_VERSION = 10
"""The first one that has all types of weights."""


def numbers_of(value: Value) -> npt.NDArray[Any]:
    """The numbers of a value that depends on no input; one that is not stored itself is computed.

    Raises:
        RefusedError: if it depends on an input, or ONNX Runtime cannot compute it.
        ModelError: if a file with weights cannot be read.
    """
    if value.holds_tensor:
        return value.numbers()
    if not value.is_constant:
        raise RefusedError(f"{value.name} depends on the model's inputs, so it has no numbers of its own")
    if value.producer is None:
        raise RefusedError(f"{value.name} is stored as a sparse tensor, which cannot be read as weights")
    made = LoadedModel(_computing(value), value.name, value.scope.sources)
    try:
        session = Session(made, Provider(CPU, "weights"), name=f"what computes {value.name}")
        return session.run({})[value.name]
    except InferenceError as error:
        raise RefusedError(f"{value.name} follows from stored tensors, but {error}") from error


def _computing(value: Value) -> ModelProto:
    """A model without inputs that outputs a constant value."""
    made = ModelProto(ir_version=IR_VERSION)
    made.graph.name = "constants"
    nodes: set[Node] = set()
    seen = {value}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        node = item.producer
        if item.is_initializer and item.tensor is not None:
            made.graph.initializer.append(item.tensor)
        elif node is not None and node not in nodes:
            nodes.add(node)
            fresh = [source for source in node.inputs if source is not None and source not in seen]
            seen.update(fresh)
            waiting += fresh
        elif node is None:
            made.graph.sparse_initializer.extend(
                sparse for sparse in item.scope.proto.sparse_initializer if sparse.values.name == item.name
            )
    made.graph.node.extend(node.proto for node in sorted(nodes, key=lambda node: node.index))
    opsets = {"": value.scope.opset} | {node.domain: node.opset for node in nodes}
    made.opset_import.extend(helper.make_opsetid(*item) for item in sorted(opsets.items()))
    # Its type follows from the nodes, and a wrong guess of its shape would stop the run.
    made.graph.output.append(ValueInfoProto(name=value.name))
    return made
