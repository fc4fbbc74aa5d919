"""A trial load of a model in ONNX Runtime without its weights, which costs as little as looking at the graph."""

from __future__ import annotations

import math

from onnx import ModelProto

from onnxheadprune.errors import HeadPruneError, InferenceError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied, store_tensors
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.runtime.session import CPU, Provider, Session

SMALL = 256
"""Elements of a tensor that may be a shape, an axis or a scale, whose numbers decide whether a graph is valid."""
QUICKLY_READ = 2**28
"""Bytes of weights that are read to be sure."""


def why_not_loaded(model: LoadedModel) -> str | None:
    """Return why ONNX Runtime does not load a model on the CPU, None if it does or cannot be asked.

    Its weights are inputs at first. A kernel may want them stored, so that a small model that fails is loaded as it is.
    """
    try:
        stated = _why(LoadedModel(_without_weights(model.as_stored), model.name, model.sources))
        if stated is None or stored_size(model.proto).bytes > QUICKLY_READ:
            return stated
        return _why(model)
    except (HeadPruneError, MemoryError):
        return None


def _why(model: LoadedModel) -> str | None:
    try:
        Session(model, Provider(CPU, "loading"), name="it").close()
    except InferenceError as error:
        return str(error).removeprefix("it does not load in ONNX Runtime: ")
    return None


def _without_weights(model: ModelProto) -> ModelProto:
    """Return a copy whose large tensors are inputs."""
    made = copied(model)
    del made.graph.initializer[:]
    store_tensors(made.graph, model.graph.initializer, lambda tensor: math.prod(tensor.dims) > SMALL)
    return made
