"""Tools to extract a part of a model: what nodes read and need, and stored tensors with other numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

from onnxheadprune.model.bodies import bodies_of, stored_tensor
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.model.storage.reading import Sources, in_memory

Array = npt.NDArray[Any]
Numbers: TypeAlias = "Array | TensorProto"
"""Other contents for a stored tensor; what is a tensor itself may refer to a file."""


def needed_nodes(graph: GraphProto, wanted: Iterable[str]) -> tuple[list[NodeProto], set[str]]:
    """The nodes that `wanted` values depend on, in order, and the names of all values among them."""
    needed = set(wanted)
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(read_by(node))
    return nodes[::-1], needed


def read_by(node: NodeProto) -> set[str]:
    """Name a node reads, those that its bodies read from around them included."""
    names = {name for name in node.input if name}
    for body in bodies_of(node):
        inner = {name for item in body.node for name in read_by(item)} | {out.name for out in body.output}
        made = {name for item in body.node for name in item.output}
        made |= {item.name for item in body.initializer} | {item.name for item in body.input}
        names |= inner - made
    return names


def with_stored(model: ModelProto, stored: Mapping[str, Numbers]) -> ModelProto:
    """A copy of a model in which the named initializers and constants hold other numbers, those of bodies included."""
    changed = copied(model)
    for tensor in changed.graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(_tensor(tensor, stored[tensor.name]))
    store_constants(changed.graph, stored)
    store_in_bodies(changed.graph, stored)
    return changed


@dataclass(frozen=True, eq=False)
class Restored:
    """Refitted tensors in the original's shapes, cut parts as they were."""

    tensors: Mapping[str, TensorProto] = field(default_factory=dict)  # by name; large ones refer to `sources`
    sources: Sources = field(default_factory=dict)  # files that hold them, and what computes them

    def arrays(self) -> dict[str, Array]:
        """All of them in memory."""
        return {
            name: numpy_helper.to_array(in_memory(tensor, self.sources))
            for name, tensor in self.tensors.items()
        }

    def into(self, model: LoadedModel, proto: ModelProto | None = None) -> LoadedModel:
        """A model with these tensors in the place of its own; without any, it is not copied."""
        made = proto or model.proto
        return self.beside(model).changed(with_stored(made, self.tensors) if self.tensors else made)

    def beside(self, model: LoadedModel) -> LoadedModel:
        """A model whose tensors may refer to these sources, too."""
        return LoadedModel(model.proto, model.name, {**model.sources, **self.sources}, model.inline)


def store_in_bodies(graph: GraphProto, stored: Mapping[str, Numbers]) -> None:
    """Give what the bodies of a graph's nodes store other contents, by its name."""
    for node in graph.node:
        for body in bodies_of(node):
            for tensor in body.initializer:
                if tensor.name in stored:
                    tensor.CopyFrom(_tensor(tensor, stored[tensor.name]))
            store_constants(body, stored)
            store_in_bodies(body, stored)


def stored_anew(tensor: TensorProto, numbers: Numbers | None) -> TensorProto:
    """A stored tensor with other numbers, itself where there are none; its name and documentation stay."""
    return tensor if numbers is None else _tensor(tensor, numbers)


def store_constants(graph: GraphProto, stored: Mapping[str, Numbers]) -> None:
    """Give the Constant nodes of a graph other contents, by the name of their output."""
    for node in graph.node:
        tensor = stored_tensor(node)
        if tensor is not None and node.output[0] in stored:
            tensor.CopyFrom(_tensor(tensor, stored[node.output[0]]))


def _tensor(old: TensorProto, numbers: Numbers) -> TensorProto:
    """The same tensor with other numbers; its name and documentation stay."""
    new = TensorProto()
    if isinstance(numbers, TensorProto):
        new.CopyFrom(numbers)
        new.name = old.name
    else:
        kind = helper.tensor_dtype_to_np_dtype(old.data_type)
        new.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numbers).astype(kind), old.name))
    if old.doc_string:
        new.doc_string = old.doc_string
    else:
        new.ClearField("doc_string")
    return new
