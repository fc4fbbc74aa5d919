"""Small graphs as ONNX text, both ways: the one dialect for graphs that tests write down.

What the text declares and nothing produces is a weight: `<float[4, 6] w_q>` is filled from a seed, and
`<int64[2] shape = {0, 6}>` is as it stands. The other way, weights lose their values again.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx.parser
import onnx.printer
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

MOST_NUMBERS = 8
"""Elements of a vector of integers that is still worth reading."""
EVIDENT = re.compile(r"(\w+): (?:ints?|graph|tensor) = ")
"""Types of attributes that the parser tells from their values. (It would take the float 1 for an integer.)"""


def model_of(text: str, seed: int = 0, given: Mapping[str, Any] | None = None) -> ModelProto:
    """The model that a text describes, its weights filled in.

    Args:
        text: in the syntax of `onnx.parser.parse_model`.
        seed: of the weights; each one also depends on its own name, and on nothing else.
        given: arrays by the name of a weight, declared or not, instead of random ones; what nothing reads is left out.

    Raises:
        onnx.checker.ValidationError: if the graph is not valid, as where a name is neither made nor declared.
    """
    model = onnx.parser.parse_model(text)
    graph = model.graph
    read = names_read(graph.node)
    arrays = {name: array for name, array in (given or {}).items() if name in read}
    produced = {name for node in graph.node for name in node.output} | {item.name for item in graph.input}
    for info in [item for item in graph.value_info if item.name not in produced]:
        kind = info.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        if info.name not in arrays:
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            arrays[info.name] = weight(info.name, shape, dtype, seed)
        graph.value_info.remove(info)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()
    )
    onnx.checker.check_model(model)
    return model


def names_read(nodes: Iterable[NodeProto]) -> set[str]:
    """Names that nodes read, in bodies too."""
    found = set()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found |= names_read(attribute.g.node)
    return found


def weight(name: str, shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    """Floats in [-1, 1), or integers of one byte: the same for the same name, shape and seed."""
    random = np.random.default_rng((seed, zlib.crc32(name.encode())))
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return random.integers(max(limits.min, -128), min(limits.max, 255), shape).astype(dtype)
    return random.uniform(-1, 1, shape).astype(dtype)


def text_of(model: ModelProto) -> str:
    """A model as text without the values of its weights; `model_of` reads it. Metadata are left out."""
    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.metadata_props[:]
    graph = shown.graph
    for tensor in [item for item in graph.initializer if not _is_worth_reading(item)]:
        graph.initializer.remove(tensor)
        graph.value_info.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BOOL:
            # The printer of onnx 1.20 leaves raw ones out.
            numbers = numpy_helper.to_array(tensor).reshape(-1)
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, list(tensor.dims), numbers))
    lines = EVIDENT.sub(r"\1 = ", onnx.printer.to_text(shown)).splitlines()
    # The printer writes all stored tensors into one line, after the line with inputs and outputs.
    stored = next((number for number, line in enumerate(lines) if line.startswith("   <")), None)
    if stored is not None:
        lines[stored] = lines[stored].replace(", ", ",\n    ")
    return "\n".join(line.rstrip().replace(" =  {", " = {") for line in lines) + "\n"


def _is_worth_reading(tensor: TensorProto) -> bool:
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if not tensor.dims:
        return True
    integers = np.issubdtype(dtype, np.integer) or dtype == np.bool_
    return integers and len(tensor.dims) == 1 and tensor.dims[0] <= MOST_NUMBERS


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Give weights names that the syntax of ONNX text does not allow."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def text_model(body: str, ends: str, weights: str) -> ModelProto:
    """The graph that some nodes make of x, [2, 3, 8]."""
    return model_of(
        f'<ir_version: 9, opset_import: ["" : 17, "mine" : 1]> g (float[2, 3, 8] x) => (float[n, m, k] {ends})'
        f" <{weights}> {{ {body} }}"
    )
