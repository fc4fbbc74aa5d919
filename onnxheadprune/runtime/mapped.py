"""Outputs that are too large for memory: ONNX Runtime writes them to a temporary file that the system maps.

A single text of 1,024 tokens with 150,000 words is 0.6 GB of logits, which no smaller batch divides. Mapped pages are
written out and dropped when others need the memory.
"""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

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

    inputs: Mapping[str, Sequence[Any]]  # the dimensions of each input, numbers or names
    # the type and dimensions of each output that has a known number of dimensions
    outputs: Mapping[str, tuple[str, Sequence[Any]]]

    @classmethod
    def of(cls, session: Any) -> Wide | None:
        """Return those of an `InferenceSession`; None if one of its outputs is no tensor."""
        outputs = {item.name: (item.type, item.shape) for item in session.get_outputs()}
        if not all(kind.startswith("tensor(") for kind, _ in outputs.values()):
            return None
        floats = {name: item for name, item in outputs.items() if item[0] in _KINDS and item[1]}
        return cls({item.name: item.shape for item in session.get_inputs()}, floats) if floats else None

    def too_large(self, feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the outputs that would have more than `OUTPUT_BYTES`."""
        sizes = dict(self._sizes(feed))
        found = {}
        for name, (kind, dims) in self.outputs.items():
            shape = [dim if isinstance(dim, int) else sizes.get(dim) for dim in dims]
            known = tuple(size for size in shape if size is not None)
            if len(known) == len(shape) and math.prod(known) * _KINDS[kind].itemsize > OUTPUT_BYTES:
                found[name] = known
        return found

    def _sizes(self, feed: Mapping[str, npt.NDArray[Any]]) -> Iterator[tuple[str, int]]:
        for name, value in feed.items():
            dims = self.inputs.get(name, ())
            if len(dims) == value.ndim:
                yield from (
                    (dim, size) for dim, size in zip(dims, value.shape, strict=True) if isinstance(dim, str)
                )

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
        mapped = {name: _mapped(shape, _KINDS[self.outputs[name][0]]) for name, shape in large.items()}
        names = [item.name for item in session.get_outputs()]
        for name in names:
            if name in mapped:
                array = mapped[name]
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            else:
                binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding, options)
        values = zip(names, binding.get_outputs(), strict=True)
        return [mapped[name] if name in mapped else value.numpy() for name, value in values]


def _mapped(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array in a file without a name, which goes with the array."""
    size = math.prod(shape) * dtype.itemsize
    with tempfile.TemporaryFile(prefix="onnxheadprune-") as file:
        file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
