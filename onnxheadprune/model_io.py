"""Reading models: from files, from memory, from graphsurgeon; with clear errors where that fails."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model

from onnxheadprune.errors import ModelError, UsageError
from onnxheadprune.node_order import in_order

ModelLike: TypeAlias = "str | os.PathLike[str] | ModelProto | gs.Graph | LoadedModel"
INLINE_LIMIT = 2**31 - 2**25
"""Protobuf cannot hold a message of 2 GiB; beyond this, weights go into a file beside the model. The rest is
for nodes, names and types."""
_WIDTHS: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.DOUBLE: 8,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and where it came from.

    Attributes:
        proto: the model with its weights.
        name: what to call it in reports.
        path: its file, None if it came from memory.
        data_files: the files beside it that held weights.
    """

    proto: ModelProto
    name: str
    path: Path | None = None
    data_files: tuple[Path, ...] = ()


def load_model(source: ModelLike) -> ModelProto:
    """A model with its weights, from a path, a `ModelProto` (used as it is) or a graphsurgeon graph.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if it is no ONNX model, truncated, or its external data is missing.
    """
    return open_model(source).proto


def open_model(source: ModelLike) -> LoadedModel:
    """Like `load_model`, and tells where the weights were.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if it is no ONNX model, truncated, or its external data is missing.
    """
    if isinstance(source, LoadedModel):
        return source
    if isinstance(source, ModelProto):
        _check_in_memory(source)
        return LoadedModel(prepared(source), model_name(source))
    if isinstance(source, gs.Graph):
        exported: Any = gs.export_onnx(source)
        assert isinstance(exported, ModelProto)
        return LoadedModel(prepared(exported), model_name(source))
    path = Path(source)
    model = _parse(path)
    folder = path.parent.resolve()
    outside = [tensor for tensor in _tensors(model.graph) if tensor.data_location == TensorProto.EXTERNAL]
    names = dict.fromkeys(
        entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"
    )
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(
                f"{path} keeps weights in {name}, and there is no such file beside it; put both into one"
                " folder"
            )
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"the external data of {path} cannot be read: {_first_line(error)}") from error
    _check_lengths(outside, path)
    return LoadedModel(prepared(model), str(path), path, tuple(folder / name for name in names))


def prepared(model: ModelProto) -> ModelProto:
    """The model itself where its graph can be navigated as it is, else an equal one where it can.

    Local functions are inlined: a head that lives in a function body shared by several layers could not be
    removed from one of them alone. Nodes are put into topological order.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return in_order(model)


def _check_in_memory(model: ModelProto) -> None:
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(
                f"the weights of {model_name(model)} are not in memory (initializer {tensor.name!r} is external);"
                " give the path, or load it with its external data"
            )


def _check_lengths(tensors: Iterable[TensorProto], path: Path) -> None:
    """A truncated data file gives tensors that are too short, which onnx reads without complaint."""
    for tensor in tensors:
        if tensor.HasField("raw_data") and tensor.data_type in _WIDTHS:
            wanted = math.prod(tensor.dims) * _WIDTHS[tensor.data_type]
            if len(tensor.raw_data) != wanted:
                raise ModelError(
                    f"{path} is damaged: initializer {tensor.name!r} has {len(tensor.raw_data)} bytes where"
                    f" its shape {list(tensor.dims)} needs {wanted}"
                )


def stored_bytes(model: ModelProto) -> int:
    """Bytes of the weights by their types and shapes. Asking protobuf would serialize the whole model."""
    # Where the data is in typed fields, an element takes up to ten bytes on disk.
    return sum(
        math.prod(tensor.dims) * (_WIDTHS.get(tensor.data_type, 16) if tensor.HasField("raw_data") else 10)
        for tensor in _tensors(model.graph)
    )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every stored tensor, those of subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


def model_name(source: ModelLike) -> str:
    """What to call a model in reports."""
    if isinstance(source, LoadedModel):
        return source.name
    if isinstance(source, ModelProto):
        return source.graph.name or "model"
    if isinstance(source, gs.Graph):
        return str(source.name or "model")
    return str(source)


def _parse(path: Path) -> ModelProto:
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    model = ModelProto()
    try:
        model.ParseFromString(_bytes_of(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model, or is truncated: {_first_line(error)}") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph")
    return model


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def check_model(model: ModelProto, name: str, *, full: bool = False) -> None:
    """Runs `onnx.checker`.

    Raises:
        ModelError: with the checker's first sentence.
    """
    try:
        onnx.checker.check_model(
            _skeleton(model) if stored_bytes(model) > INLINE_LIMIT else model, full_check=full
        )
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{name} is not a valid ONNX model: {_first_line(error)}") from error


def _skeleton(model: ModelProto) -> ModelProto:
    """The model with its large weights declared as inputs: the checker takes no 2 GiB message."""
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    del skeleton.graph.initializer[:]
    declared = {info.name for info in model.graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < 2**16:
            skeleton.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            skeleton.graph.input.append(info)
    return skeleton


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
