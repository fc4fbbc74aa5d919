"""Reading and writing model files: clear errors on the way in, all or nothing on the way out."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model

from onnxheadprune.errors import ModelError, UsageError

ModelLike: TypeAlias = "str | os.PathLike[str] | ModelProto | gs.Graph"
INLINE_LIMIT = 2**31 - 2**20
"""Protobuf cannot hold a message of 2 GiB; beyond this, weights go into a file beside the model."""


def load_model(source: ModelLike) -> ModelProto:
    """A model with its weights, from a path, a `ModelProto` (used as it is) or a graphsurgeon graph.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if it is no ONNX model, truncated, or its external data is missing.
    """
    if isinstance(source, ModelProto):
        return source
    if isinstance(source, gs.Graph):
        exported: Any = gs.export_onnx(source)
        assert isinstance(exported, ModelProto)
        return exported
    path = Path(source)
    model = _parse(path)
    try:
        load_external_data_for_model(model, str(path.parent.resolve()))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"the external data of {path} cannot be read: {_first_line(error)}") from error
    return model


def model_name(source: ModelLike) -> str:
    """What to call a model in reports."""
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
    except (DecodeError, OSError) as error:
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


def check_target(output: str | os.PathLike[str], *inputs: ModelLike) -> Path:
    """The output path, if something can be written there.

    Raises:
        UsageError: if it is one of the inputs, or its folder does not exist or cannot be written.
    """
    target = Path(output)
    for source in inputs:
        if isinstance(source, (str, os.PathLike)) and Path(source).exists() and target.exists():
            if target.samefile(source):
                raise UsageError(f"the output {target} is the input itself; choose another path")
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist")
    if target.is_dir():
        raise UsageError(f"the output {target} is a folder; name a file in it")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder {folder} cannot be written")
    return target


def save_model(model: ModelProto, output: str | os.PathLike[str], *, external: bool = False) -> None:
    """Writes a model atomically: beside the target first, then renamed.

    Args:
        model: the model, weights in memory.
        output: where to.
        external: put the weights into `<output>.data`; done anyway above protobuf's 2 GiB.

    Raises:
        UsageError: if it cannot be written; nothing is left behind and an older file stays as it was.
    """
    target = check_target(output)
    try:
        if external or model.ByteSize() > INLINE_LIMIT:
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
        os.chmod(name, 0o666 & ~_umask())
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
    data_name = f"{target.name}.data"
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        onnx.save_model(
            light,
            os.path.join(folder, target.name),
            save_as_external_data=True,
            location=data_name,
            size_threshold=1024,
        )
        staged = Path(folder, data_name)
        if staged.exists():
            os.replace(staged, target.with_name(data_name))
        os.replace(Path(folder, target.name), target)


def has_external_data(source: ModelLike) -> bool:
    """Whether a model file keeps weights beside it."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    model = onnx.load(os.fspath(source), load_external_data=False)
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
