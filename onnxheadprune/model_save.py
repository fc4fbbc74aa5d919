"""Writing models: all or nothing, in one file or with the weights beside it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from onnxheadprune.errors import UsageError
from onnxheadprune.model_io import INLINE_LIMIT, LoadedModel, stored_bytes

EXTERNAL_THRESHOLD = 1024
"""Smaller tensors stay in the model: shape inference and readers want to see them."""


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
    size = stored_bytes(model)
    too_large = size > INLINE_LIMIT
    if too_large and external is False:
        raise UsageError(
            f"{target} cannot hold its weights of {size / 1e9:.1f} GB, since a protobuf message"
            " ends at 2 GiB; let them go into a file beside it (--external-data auto)"
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
        Path(name).replace(target)
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
            staged.replace(target)
            return
        if data.exists():
            data.replace(older_data)
        try:
            staged_data.replace(data)
            staged.replace(target)
        except BaseException:
            # The older model still refers to the older data.
            data.unlink(missing_ok=True)
            if older_data.exists():
                older_data.replace(data)
            raise
