"""Every field of the format that can hold a tensor is known to whoever reads, counts, checks and writes tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    numpy_helper,
)
from onnx.external_data_helper import load_external_data_for_tensor, set_external_data

from onnxheadprune import prune
from onnxheadprune.model.storage.layout import ExternalData
from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.model.storage.wire import BIG
from tests.graphs import toys

TENSOR, SPARSE = TensorProto.DESCRIPTOR.full_name, SparseTensorProto.DESCRIPTOR.full_name
Way = tuple[FieldDescriptor, ...]


def _ways(kind: Descriptor, way: Way = ()) -> Iterator[Way]:
    """Ways from a message to a tensor, each of which goes through a message type at most twice."""
    if kind.full_name in (TENSOR, SPARSE):
        yield way
        return
    seen = [field.containing_type.full_name for field in way]
    for field in kind.fields:
        if field.message_type is not None and seen.count(field.message_type.full_name) < 2:
            yield from _ways(field.message_type, (*way, field))


WAYS = {".".join(field.name for field in way): way for way in _ways(ModelProto.DESCRIPTOR) if len(way) <= 5}
KINDS = {
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
    "sparse_tensor": AttributeProto.SPARSE_TENSOR,
    "tensors": AttributeProto.TENSORS,
    "graphs": AttributeProto.GRAPHS,
    "sparse_tensors": AttributeProto.SPARSE_TENSORS,
}
SIZES = [0, 3, BIG // 8 - 1, BIG // 8, BIG]
"""Elements of a tensor of 64-bit numbers: around the size from which raw data stays on disk."""


def planted(way: Way, elements: int, model: ModelProto) -> list[TensorProto]:
    """The tensors that are new at the end of a way."""
    place: Message = model
    for field in way:
        if isinstance(place, AttributeProto):
            place.type = KINDS[field.name]
        held: Any = getattr(place, field.name)
        place = held.add() if field.is_repeated else held
        place.SetInParent()
        if isinstance(place, AttributeProto):
            place.name = "held"
        elif isinstance(place, NodeProto):
            place.op_type, place.domain = "Odd", "com.unused"
            place.output.append("odd")
        elif isinstance(place, FunctionProto):
            place.name, place.domain = "of nobody", "com.unused"
            place.opset_import.add(domain="com.unused", version=1)
        elif isinstance(place, GraphProto):
            place.name = place.name or "body"
    numbers = np.arange(elements, dtype=np.int64)
    if isinstance(place, SparseTensorProto):
        place.dims.append(max(elements, 1))
        place.values.CopyFrom(numpy_helper.from_array(numbers.astype(np.float64), "values"))
        place.indices.CopyFrom(numpy_helper.from_array(numbers, "indices"))
        return [place.values, place.indices]
    assert isinstance(place, TensorProto)
    place.CopyFrom(numpy_helper.from_array(numbers, "numbers"))
    return [place]


@pytest.mark.parametrize("name", WAYS)
def test_a_tensor_is_found_wherever_it_is(name: str) -> None:
    model = ModelProto()
    made = planted(WAYS[name], 3, model)
    assert [item.tensor for item in tensors_of(model)] == made


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("elements", SIZES)
@pytest.mark.parametrize("name", [name for name in WAYS if not name.startswith("functions.")])
def test_a_tensor_is_kept_wherever_it_is(name: str, elements: int, outside: bool, tmp_path: Path) -> None:
    """Functions aside: calls are replaced by what they stand for, and those that nobody calls go."""
    model = toys.attention()
    model.opset_import.add(domain="com.unused", version=1)
    made = planted(WAYS[name], elements, model)
    want = [tensor.raw_data for tensor in made]
    if outside:
        for number, tensor in enumerate(made):
            (tmp_path / f"{number}.bin").write_bytes(tensor.raw_data)
            set_external_data(tensor, f"{number}.bin", 0, len(tensor.raw_data))
            tensor.ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    names = {tensor.name for tensor in made}
    external: ExternalData
    for external in ("auto", "always", "never"):
        output = tmp_path / f"{external}.onnx"
        prune(tmp_path / "m.onnx", output, heads="0:1", validate=False, external_data=external)
        written = ModelProto.FromString(output.read_bytes())
        found = [item.tensor for item in tensors_of(written) if item.tensor.name in names]
        for tensor in found:
            if tensor.external_data:
                load_external_data_for_tensor(tensor, str(tmp_path))
        assert [tensor.raw_data for tensor in found] == want
