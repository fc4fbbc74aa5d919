"""Outputs that are too large for memory: ONNX Runtime writes them to a temporary file that the system maps.

A single text of 1,024 tokens with 150,000 words is 0.6 GB of logits, which no smaller batch divides. Mapped pages are
written out and dropped when others need the memory.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.model.graph.dims import Symbolic, evaluated
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of

OUTPUT_BYTES = 2**26
"""Bytes of the largest output of a run that is held in memory; a batch is divided to stay below it."""
_KINDS = {
    f"tensor({word})": helper.tensor_dtype_to_np_dtype(kind)
    for word, kind in (
        ("float", TensorProto.FLOAT),
        ("float16", TensorProto.FLOAT16),
        ("double", TensorProto.DOUBLE),
    )
}


@dataclass(frozen=True)
class Wide:
    """Outputs whose sizes follow from the inputs."""

    model: LoadedModel
    inputs: Mapping[str, Sequence[Any]]  # the dimensions of each input, numbers or names
    # the type and dimensions of each output that has a known number of dimensions
    outputs: Mapping[str, tuple[str, Sequence[Any]]]

    @classmethod
    def of(cls, session: Any, model: LoadedModel) -> Wide | None:
        """Return those of an `InferenceSession`; None if one of its outputs is no tensor."""
        outputs = {item.name: (item.type, item.shape) for item in session.get_outputs()}
        if not all(kind.startswith("tensor(") for kind, _ in outputs.values()):
            return None
        floats = {name: item for name, item in outputs.items() if item[0] in _KINDS and item[1]}
        return (
            cls(model, {item.name: item.shape for item in session.get_inputs()}, floats) if floats else None
        )

    def too_large(self, feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the outputs that would have more than `OUTPUT_BYTES`."""
        sizes = _sizes(self.inputs, feed)
        tokens = max((value.size for value in feed.values() if value.ndim <= 3), default=0)
        found = {}
        for name, (kind, dims) in self.outputs.items():
            shape = [dim if isinstance(dim, int) else sizes.get(dim) for dim in dims]
            least = math.prod(size for size in shape if size is not None) * _KINDS[kind].itemsize
            if None in shape and least * tokens > OUTPUT_BYTES:
                shape = self._inferred(name, feed)
            known = tuple(size for size in shape if size is not None)
            if len(known) == len(dims) and math.prod(known) * _KINDS[kind].itemsize > OUTPUT_BYTES:
                found[name] = known
        return found

    def _inferred(self, name: str, feed: Mapping[str, npt.NDArray[Any]]) -> list[int | None]:
        """The dimensions of an output for a feed, where none of the inputs has their names: products of theirs."""
        value = self._view.main.lookup(name)
        dims, sizes = (() if value is None else value.shape or ()), sizes_of(self._view, feed)
        return [evaluated(dim, sizes) for dim in dims]

    @functools.cached_property
    def _view(self) -> GraphView:
        return view_of(self.model)

    def run(
        self,
        session: Any,
        feed: Mapping[str, npt.NDArray[Any]],
        large: Mapping[str, tuple[int, ...]],
        options: Any,
    ) -> list[npt.NDArray[Any]]:
        """Run a session, with large outputs in a file, and return its outputs in order."""
        binding = session.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        files = {name: mapped(shape, _KINDS[self.outputs[name][0]]) for name, shape in large.items()}
        names = [item.name for item in session.get_outputs()]
        for name in names:
            if name in files:
                array = files[name]
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            else:
                binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding, options)
        values = zip(names, binding.get_outputs(), strict=True)
        return [files[name] if name in files else value.numpy() for name, value in values]


def sizes_of(view: GraphView, feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    """Return the sizes that the named dimensions of the inputs have in a feed."""
    return _sizes({name: value.shape or () for name in feed if (value := view.main.values.get(name))}, feed)


def _sizes(dims: Mapping[str, Sequence[Any]], feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    return {
        str(dim): size
        for name, value in feed.items()
        for dim, size in zip(dims.get(name, ()), value.shape, strict=False)
        if isinstance(dim, str | Symbolic)
    }


def mapped(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array in a file without a name, which goes with the array."""
    size = math.prod(shape) * dtype.itemsize
    with tempfile.TemporaryFile(prefix="onnxheadprune-") as file:
        if hasattr(os, "posix_fallocate"):  # a file with holes would end the process where the disk is full
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
