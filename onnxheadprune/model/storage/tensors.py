"""Every stored tensor of a model, wherever it is, and how many bytes it takes."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from onnxheadprune.model.bodies import nodes_of_model
from onnxheadprune.model.constants import is_constant
from onnxheadprune.model.one_line import one_line


class Role(enum.Enum):
    """The place that holds a tensor."""

    INITIALIZER = "initializer"
    ATTRIBUTE = "attribute"
    SPARSE = "sparse tensor"


class Stored(NamedTuple):
    """A stored tensor and what holds it."""

    tensor: TensorProto
    role: Role

    @property
    def label(self) -> str:
        """How to name it to a person."""
        name = repr(self.tensor.name[:80]) if self.tensor.name else "without a name"
        return f"{self.role.value if self.role is Role.INITIALIZER else 'tensor'} {name}"


_BITS = {
    4: "INT4 UINT4 FLOAT4E2M1",
    2: "INT2 UINT2",
    6: "FLOAT6E2M3 FLOAT6E3M2",
    8: "UINT8 INT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0",
    16: "UINT16 INT16 FLOAT16 BFLOAT16",
    32: "FLOAT INT32 UINT32",
    64: "DOUBLE INT64 UINT64 COMPLEX64",
    128: "COMPLEX128",
}
BITS: dict[int, int] = {
    number: bits
    for bits, names in _BITS.items()
    for name, number in TensorProto.DataType.items()
    if name in names.split()
}
"""Bits of an element per data type. Strings have no fixed size."""


def bytes_needed(data_type: int, dims: tuple[int, ...]) -> int:
    """Bytes that raw data of this type and shape has."""
    return (math.prod(dims) * BITS[data_type] + 7) // 8


@one_line()
@dataclass(frozen=True)
class StoredSize:
    """Elements and bytes of the stored tensors of a model, initializers and Constants alike."""

    elements: int
    bytes: int

    def to_dict(self) -> dict[str, int]:
        """JSON-ready data."""
        return {"elements": self.elements, "bytes": self.bytes}


def stored_size(model: ModelProto) -> StoredSize:
    """Elements and bytes of all stored tensors: of the graph, of bodies and of functions, however they are written."""
    sizes = [(math.prod(stored.tensor.dims), _bytes_of(stored.tensor)) for stored in tensors_of(model)]
    sizes += _plain_constants(model)
    return StoredSize(sum(elements for elements, _ in sizes), sum(size for _, size in sizes))


def _bytes_of(tensor: TensorProto) -> int:
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    known = tensor.data_type in BITS
    return bytes_needed(tensor.data_type, tuple(tensor.dims)) if known else 8 * math.prod(tensor.dims)


def _plain_constants(model: ModelProto) -> Iterator[tuple[int, int]]:
    """Elements and bytes of Constant nodes that hold bare numbers in place of a tensor."""
    for attribute in (item for node in nodes_of_model(model) if is_constant(node) for item in node.attribute):
        if attribute.name in _PLAIN:
            count = max(len(attribute.floats), len(attribute.ints), len(attribute.strings), 1)
            text = sum(map(len, attribute.strings)) + len(attribute.s)
            yield count, text if "string" in attribute.name else _PLAIN[attribute.name] * count


_PLAIN = {
    "value_float": 4,
    "value_floats": 4,
    "value_int": 8,
    "value_ints": 8,
    "value_string": 0,
    "value_strings": 0,
}
"""Attributes of Constant that hold bare numbers, with the bytes of one."""


def tensors_of(model: ModelProto) -> Iterator[Stored]:
    """Every stored tensor of a model: bodies, functions and training included."""
    yield from _of_graph(model.graph)
    for training in model.training_info:
        # Readers look for external data in the graph only, so what is in here is no initializer to them.
        for graph in (training.initialization, training.algorithm):
            yield from (Stored(item.tensor, Role.ATTRIBUTE) for item in _of_graph(graph))
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute)


def _of_graph(graph: GraphProto) -> Iterator[Stored]:
    for tensor in graph.initializer:
        yield Stored(tensor, Role.INITIALIZER)
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(sparse)
    for node in graph.node:
        if node.attribute:
            yield from _of_node(node)


def _of_node(node: NodeProto) -> Iterator[Stored]:
    for attribute in node.attribute:
        yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[Stored]:
    if attribute.HasField("t"):
        yield Stored(attribute.t, Role.ATTRIBUTE)
    if attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    if attribute.HasField("sparse_tensor"):
        yield from _of_sparse(attribute.sparse_tensor)
    for tensor in attribute.tensors:
        yield Stored(tensor, Role.ATTRIBUTE)
    for graph in attribute.graphs:
        yield from _of_graph(graph)
    for sparse in attribute.sparse_tensors:
        yield from _of_sparse(sparse)


def _of_sparse(sparse: SparseTensorProto) -> Iterator[Stored]:
    yield Stored(sparse.values, Role.SPARSE)
    yield Stored(sparse.indices, Role.SPARSE)
