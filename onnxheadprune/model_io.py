"""Reading and writing model files: clear errors on the way in, all or nothing on the way out."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model

from onnxheadprune.errors import ModelError, UsageError

ModelLike: TypeAlias = "str | os.PathLike[str] | ModelProto | gs.Graph | LoadedModel"
INLINE_LIMIT = 2**31 - 2**20
"""Protobuf cannot hold a message of 2 GiB; beyond this, weights go into a file beside the model."""
EXTERNAL_THRESHOLD = 1024
"""Smaller tensors stay in the model: shape inference and readers want to see them."""
_WIDTHS = {
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
        return LoadedModel(prepared(source), model_name(source))
    if isinstance(source, gs.Graph):
        exported: Any = gs.export_onnx(source)
        assert isinstance(exported, ModelProto)
        return LoadedModel(prepared(exported), model_name(source))
    path = Path(source)
    model = _parse(path)
    folder = path.parent.resolve()
    names = dict.fromkeys(
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(
                f"{path} keeps weights in {name}, and there is no such file beside it; put both into one folder"
            )
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"the external data of {path} cannot be read: {_first_line(error)}") from error
    _check_lengths(model, path)
    return LoadedModel(prepared(model), str(path), path, tuple(folder / name for name in names))


def prepared(model: ModelProto) -> ModelProto:
    """The model itself where its graph can be navigated as it is, else an equal one where it can.

    Local functions are inlined: a head that lives in a function body shared by several layers could not be
    removed from one of them alone. Nodes are put into topological order.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return in_order(model)


def in_order(model: ModelProto) -> ModelProto:
    """The model itself, or a copy with its nodes in topological order.

    ONNX asks for that order, but some converters append their nodes at the end and ONNX Runtime sorts
    silently. Nodes that are in order already stay where they are.
    """
    order = _order(model.graph)
    if order == list(range(len(order))):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(model.graph.node[position] for position in order)
    return copy


def _order(graph: GraphProto) -> list[int]:
    """Positions of the nodes in an order in which each comes after what it reads; as given if there is none."""
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
            needed = {producer[name] for name in _names_read(graph.node[position]) if name in producer}
            waiting = sorted(other for other in needed if state[other] != 2 and other != position)
            if not waiting:
                state[position] = 2
                order.append(position)
                stack.pop()
            elif state[position] == 1 and any(state[other] == 1 for other in waiting):
                return list(range(len(graph.node)))
            else:
                state[position] = 1
                stack += reversed(waiting)
    return order


def _names_read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those of its bodies included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _names_read(inner)
            yield from (output.name for output in attribute.g.output)


def _check_lengths(model: ModelProto, path: Path) -> None:
    """A truncated data file gives tensors that are too short, which onnx reads without complaint."""
    for tensor in _tensors(model.graph):
        if tensor.HasField("raw_data") and tensor.data_type in _WIDTHS:
            wanted = math.prod(tensor.dims) * _WIDTHS[tensor.data_type]
            if len(tensor.raw_data) != wanted:
                raise ModelError(
                    f"{path} is damaged: initializer {tensor.name!r} has {len(tensor.raw_data)} bytes where its"
                    f" shape {list(tensor.dims)} needs {wanted}"
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
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model, or is truncated: {_first_line(error)}") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph")
    return model


def check_model(model: ModelProto, name: str, *, full: bool = False) -> None:
    """Runs `onnx.checker`.

    Raises:
        ModelError: with the checker's first sentence.
    """
    try:
        onnx.checker.check_model(
            model if model.ByteSize() < INLINE_LIMIT else _skeleton(model), full_check=full
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


def check_target(output: str | os.PathLike[str], *inputs: LoadedModel) -> Path:
    """The output path, if something can be written there.

    Raises:
        UsageError: if it or its data file is part of an input, or its folder does not exist or cannot be
            written.
    """
    target = Path(output)
    for source in inputs:
        if source.path is not None and _is_same_file(target, source.path):
            raise UsageError(f"the output {target} is the input itself; choose another path")
        for data_file in source.data_files:
            if _is_same_file(target, data_file) or _is_same_file(data_path(target), data_file):
                raise UsageError(f"the output {target} would overwrite the input's weights {data_file}")
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist")
    if target.is_dir():
        raise UsageError(f"the output {target} is a folder; name a file in it")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder {folder} cannot be written")
    return target


def data_path(target: Path) -> Path:
    """Where the weights of a model go if they are stored beside it."""
    return target.with_name(f"{target.name}.data")


def _is_same_file(left: Path, right: Path) -> bool:
    return left.exists() and right.exists() and left.samefile(right)


def save_model(model: ModelProto, output: str | os.PathLike[str], *, external: bool | None = None) -> None:
    """Writes a model atomically: beside the target first, then renamed.

    Args:
        model: the model, weights in memory.
        output: where to.
        external: put the weights into `<output>.data`; False keeps them inside, None decides by size
            (protobuf takes at most 2 GiB).

    Raises:
        UsageError: if it cannot be written; nothing is left behind and an older file stays as it was.
    """
    target = check_target(output)
    too_large = model.ByteSize() > INLINE_LIMIT
    if too_large and external is False:
        raise UsageError(
            f"{target} cannot hold its weights of {model.ByteSize() / 1e9:.1f} GB, since a protobuf message ends at"
            " 2 GiB; let them go into a file beside it (--external-data auto)"
        )
    try:
        if external or too_large:
            _save_external(model, target)
        else:
            _replace(target, model.SerializeToString())
    except OSError as error:
        reason = "no space is left" if error.errno == errno.ENOSPC else str(error.strerror or error)
        raise UsageError(f"{target} cannot be written: {reason}") from error


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _save_external(model: ModelProto, target: Path) -> None:
    """The weights go into a new data file first; the model that refers to it appears last."""
    light = ModelProto()
    light.CopyFrom(model)
    data = data_path(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        staged, staged_data, older_data = (Path(folder, name) for name in (target.name, data.name, "older"))
        onnx.save_model(
            light, staged, save_as_external_data=True, location=data.name, size_threshold=EXTERNAL_THRESHOLD
        )
        for path in (staged, staged_data):
            if path.exists():
                path.chmod(0o666 & ~_umask())
        if not staged_data.exists():
            os.replace(staged, target)
            return
        if data.exists():
            os.replace(data, older_data)
        try:
            os.replace(staged_data, data)
            os.replace(staged, target)
        except BaseException:
            # The older model still refers to the older data.
            data.unlink(missing_ok=True)
            if older_data.exists():
                os.replace(older_data, data)
            raise


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
