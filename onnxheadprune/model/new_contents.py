"""New contents of initializers, computed when they are written: refitted or finetuned weights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from onnx import helper, numpy_helper

from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.model.storage.layout import write_all
from onnxheadprune.model.storage.reading import Source
from onnxheadprune.model.storage.tensors import (
    PRIVATE,
    Span,
    bytes_needed,
    hold,
    is_outside,
    offset_outside,
    refer,
    span_of,
)
from onnxheadprune.model.storage.wire import BIG
from onnxheadprune.model.tensors import FIELDS, Array

Contents: TypeAlias = "Array | Callable[[], Array]"


@dataclass(frozen=True)
class Computed(Source):
    """Contents that are computed when they are read, in an unnamed file."""

    name: str = ""
    data_type: int = 0
    dims: tuple[int, ...] = ()
    compute: Callable[[], Array] = field(default=lambda: np.empty(0), repr=False, compare=False)

    def open(self) -> int:
        """Compute the contents and return a handle for reading them."""
        with tempfile.TemporaryFile(prefix="onnxheadprune-") as unnamed:
            handle = os.dup(unnamed.fileno())
        try:
            write_all(handle, _raw(self.compute(), self.name, self.data_type, self.dims))
        except BaseException:
            os.close(handle)
            raise
        return handle


def with_contents(loaded: LoadedModel, contents: Mapping[str, Contents]) -> LoadedModel:
    """The model with new contents of some initializers; cuts apply to the new contents.

    Args:
        contents: for names of initializers of the main graph an array of the same type and shape, or a
            function that makes it. Functions for large tensors are called when the tensor is written,
            one at a time.
    """
    copy = copied(loaded.proto)
    sources = dict(loaded.sources)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, given in contents.items():
        if name not in tensors:
            raise UsageError(f"{loaded.name} has no initializer {name!r}")
        tensor = tensors[name]
        outside = offset_outside(tensor)
        if is_outside(tensor) and span_of(tensor).location != loaded.inline:
            outside = span_of(tensor).offset
        shape = tuple(tensor.dims)
        size = bytes_needed(tensor.data_type, shape)
        for typed in FIELDS:
            tensor.ClearField(typed)
        if not callable(given) or size < BIG:
            array = given() if callable(given) else given
            hold(tensor, _raw(array, name, tensor.data_type, shape), outside=outside)
            continue
        location = f"{PRIVATE}computed/{name}"
        hold(tensor, b"", outside=outside)
        refer(tensor, Span(location, 0, size))
        sources[location] = Computed(Path(location), size, (), name, tensor.data_type, shape, given)
    return LoadedModel(copy, loaded.name, sources, loaded.inline)


def _raw(array: Array, name: str, data_type: int, dims: tuple[int, ...]) -> bytes:
    wanted = helper.tensor_dtype_to_np_dtype(data_type)
    if array.shape != dims or array.dtype != wanted:
        raise UsageError(
            f"the new contents of {name!r} are {array.dtype}{list(array.shape)} where {wanted}{list(dims)} is needed"
        )
    return bytes(numpy_helper.from_array(np.ascontiguousarray(array)).raw_data)
