"""A model on its way to another process or machine: small ones travel whole, large ones as the path of their file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from onnxheadprune.errors import ModelError, RefusedError, UsageError
from onnxheadprune.model.load import INLINE_LIMIT, LARGE, LoadedModel, open_structure, stored_bytes
from onnxheadprune.model.storage.reading import hydrated


@dataclass(frozen=True, eq=False)
class Sent:
    """A model that can be pickled."""

    name: str  # what to call it
    digest: str  # of its content, or of its structure and the sizes of its files where it goes by path
    content: bytes | None  # the serialized model, None where it goes by path
    path: Path | None  # its file, None where it travels whole


def sent(model: LoadedModel, whole_up_to: int = LARGE) -> Sent:
    """A model as it travels.

    Args:
        whole_up_to: bytes of weights up to which it travels whole; beyond, by its path if it has one.
    """
    size = stored_bytes(model.proto)
    if model.path is not None and size > whole_up_to:
        return Sent(model.name, _digest(model), None, model.path.resolve())
    if size > INLINE_LIMIT:
        raise RefusedError(
            "a model of more than 2 GiB without a file cannot be sent to other processes; give its path"
        )
    content = hydrated(model.proto, model.sources).SerializeToString()
    return Sent(model.name, hashlib.sha256(content).hexdigest(), content, None)


def arrived(task: Sent) -> LoadedModel:
    """A model that was sent."""
    if task.content is not None:
        model = ModelProto()
        model.ParseFromString(task.content)
        return LoadedModel(model, task.name)
    assert task.path is not None
    try:
        model_there = open_structure(task.path)
    except (UsageError, ModelError) as error:
        raise UsageError(
            f"a worker cannot read {task.path}, and the model is too large to be sent to it: {error};"
            " workers need the same files"
        ) from error
    if _digest(model_there) != task.digest:
        raise UsageError(f"{task.path} is another model for a worker than where the work was asked for")
    return model_there


def _digest(model: LoadedModel) -> str:
    digest = hashlib.sha256(model.proto.SerializeToString(deterministic=True))
    for location in sorted(model.sources):
        digest.update(f"{location} {model.sources[location].size} ".encode())
    return digest.hexdigest()
