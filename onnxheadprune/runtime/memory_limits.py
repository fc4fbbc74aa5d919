"""Models whose weights are on disk, for ONNX Runtime: small ones are read, large ones mapped.

ONNX Runtime reads external data only below the folder of a model file, and a masked reference has no file.
So it gets a large model as a structure without a file, and the folder of the original's weights to map them from.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.load import INLINE_LIMIT, LARGE, MAPPED_FROM, LoadedModel, stored_bytes
from onnxheadprune.model.messages import copied
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.reading import Sources, hydrated, tensor_bytes
from onnxheadprune.model.storage.tensors import (
    Span,
    cuts_of,
    forget,
    hold,
    is_outside,
    refer,
    span_of,
    tensors_of,
)
from onnxheadprune.model.storage.wire import BIG
from onnxheadprune.model.storage.writing import temporary_folder_of

FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's setting for where the external data of a model without a file is."""
NO_COPIES = "session.disable_prepacking"
"""Its setting against packed copies of weights, which are as large as the model, once per session."""
PAGE = 4096
"""The alignment of weights in a file of our own, in bytes: systems map pages."""


def supplier(model: LoadedModel, options: Any, owner: object, *, lasting: bool) -> Callable[[], bytes | str]:
    """Return a function with the source of a session each time it is opened: a serialized model or a path.

    Args:
        lasting: the session runs so often, or as a deployment does, that it may have copies of weights of moderate
            size.
    """
    size = stored_bytes(model.proto)
    if size <= MAPPED_FROM or not (model.sources or size > INLINE_LIMIT):
        return lambda: bytes(hydrated(model.proto, model.sources).SerializeToString())
    if (size > LARGE or not lasting) and not _unpacks(model.proto):
        options.add_session_config_entry(NO_COPIES, "1")
    if size - _bytes_outside(model.proto) > INLINE_LIMIT:
        path = _written(model, owner)
        return lambda: path
    light, folder = _mapped(model, owner)
    if folder is not None:
        options.add_session_config_entry(FOLDER, str(folder))
    message = bytes(light.SerializeToString())
    return lambda: message


def _unpacks(model: ModelProto) -> bool:
    """Return whether a model has weights in blocks: without packed copies, they become whole floats in every run."""
    return any(is_a(node, "com.microsoft.MatMulNBits") for node in nodes_in(model.graph.node))


def _mapped(model: LoadedModel, owner: object) -> tuple[ModelProto, Path | None]:
    """The structure with references that ONNX Runtime can follow, and the folder they start from."""
    light = copied(model.proto)
    tensors = [item.tensor for item in tensors_of(light)]
    files = _files(model.sources)
    made = _Made(owner)
    places: list[tuple[TensorProto, Path, Span]] = []
    for tensor in filter(is_outside, tensors):
        span = span_of(tensor)
        if span.location in files and not cuts_of(tensor):
            places.append((tensor, files[span.location], span))
            continue
        data = tensor_bytes(tensor, model.sources)
        if len(data) < BIG:
            hold(tensor, data)
        else:
            places.append((tensor, *made.put(data)))
    folder = Path(os.path.commonpath([path.parent for _, path, _ in places])) if places else None
    for tensor, path, span in places:
        refer(tensor, Span(path.relative_to(folder or path).as_posix(), span.offset, span.length))
    for tensor in tensors:
        forget(tensor)
    return light, folder


def _files(sources: Sources) -> dict[str, Path]:
    """The sources that are files by a name, by location: those below one root with what is made here.

    A staged file may have no name yet: what a descriptor resolves to is no path then.
    """
    found = {location: source.path.resolve() for location, source in sources.items() if source.path.is_file()}
    root = Path(tempfile.gettempdir()).resolve().anchor
    return {location: path for location, path in found.items() if path.anchor == root and path.is_file()}


class _Made:
    """A file of our own for weights that are in no file as the model has them: cut, or computed."""

    def __init__(self, owner: object) -> None:
        """Make nothing yet."""
        self._owner = owner
        self._path: Path | None = None

    def put(self, data: bytes) -> tuple[Path, Span]:
        """Write bytes; where they lie then."""
        if self._path is None:
            self._path = temporary_folder_of(self._owner) / "weights"
        with self._path.open("ab") as stream:
            stream.write(bytes(-stream.tell() % PAGE))
            start = stream.tell()
            stream.write(data)
        return self._path, Span(self._path.name, start, len(data))


def _bytes_outside(model: ModelProto) -> int:
    return sum(span_of(item.tensor).length for item in tensors_of(model) if is_outside(item.tensor))


def _written(model: LoadedModel, owner: object) -> str:
    """A file of our own, where a message cannot hold what is in memory."""
    path = temporary_folder_of(owner) / "model.onnx"
    save_model(model, path, external=True)
    return str(path)
