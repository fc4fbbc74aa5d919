"""Models whose weights are on disk, for ONNX Runtime: small ones are read, large ones mapped.

ONNX Runtime reads external data only below the folder of a model file, and a masked reference has no file.
So it gets a large model as a structure without a file, and the folder of the original's weights to map them from.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxheadprune.model.load import INLINE_LIMIT, MAPPED_FROM, LoadedModel, stored_bytes
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.reading import hydrated, tensor_bytes
from onnxheadprune.model.storage.spans import Span, cuts_of, forget, hold, is_outside, refer, span_of
from onnxheadprune.model.storage.tensors import tensors_of

FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's setting for where the external data of a model without a file is."""
NO_COPIES = "session.disable_prepacking"
"""Its setting against packed copies of weights, which are as large as the model, once per session."""


def supply(model: LoadedModel, options: Any, owner: object) -> bytes | str:
    """What a session is made from: a message, or the path of a file.

    Args:
        model: in memory, or a structure.
        options: of the session; learns where the weights are.
        owner: a file that has to be made lives as long as this.

    Raises:
        ModelError: if weights cannot be read.
    """
    size = stored_bytes(model.proto)
    if size <= MAPPED_FROM or (not model.sources and size <= INLINE_LIMIT):
        return bytes(hydrated(model.proto, model.sources).SerializeToString())
    options.add_session_config_entry(NO_COPIES, "1")
    light, folder = _mapped(model)
    if stored_bytes(light) - _bytes_outside(light) > INLINE_LIMIT:
        return _written(model, owner)
    if folder is not None:
        options.add_session_config_entry(FOLDER, str(folder))
    return bytes(light.SerializeToString())


def _mapped(model: LoadedModel) -> tuple[ModelProto, Path | None]:
    """The structure with references that ONNX Runtime can follow, and the folder they start from."""
    light = ModelProto()
    light.CopyFrom(model.proto)
    used = [item.tensor for item in tensors_of(light) if is_outside(item.tensor)]
    paths = {
        location: model.sources[location].path.resolve()
        for location in {span_of(tensor).location for tensor in used}
        if model.sources[location].path.is_file()
    }
    folder = Path(os.path.commonpath([path.parent for path in paths.values()])) if paths else None
    for tensor, _ in tensors_of(light):
        if is_outside(tensor):
            span = span_of(tensor)
            if span.location not in paths or cuts_of(tensor):
                hold(tensor, tensor_bytes(tensor, model.sources))
                continue
            where = paths[span.location].relative_to(folder).as_posix() if folder else ""
            refer(tensor, Span(where, span.offset, span.length))
        forget(tensor)
    return light, folder


def _bytes_outside(model: ModelProto) -> int:
    return sum(span_of(item.tensor).length for item in tensors_of(model) if is_outside(item.tensor))


def _written(model: LoadedModel, owner: object) -> str:
    """A file of our own, where a message cannot hold what is not in a file."""
    folder = tempfile.mkdtemp(prefix="onnxheadprune-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "model.onnx")
    save_model(model, path, external=True)
    return str(path)
