"""Tensors that stay in the memory of a device between runs, and sessions that read and write them there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxheadprune.errors import InferenceError, heed
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.session import (
    CPU,
    CUDA,
    Provider,
    Session,
    from_ort,
    onnx_runtime,
    sentence,
    to_ort,
)


def home_of(provider: Provider) -> Provider:
    """The provider in whose memory tensors stay: CUDA in its own, all others in the CPU's.

    Providers that compile whole parts of a graph promise nothing of a tensor that is read and written in one run.
    """
    if provider.name in (CPU, CUDA):
        return provider
    return Provider(CPU, f"where {provider.label} takes tensors from", provider.threads)


class Resident:
    """A tensor in the memory of a device.

    Attributes:
        shape: its shape, which never changes.
        value: ONNX Runtime's handle of it.
    """

    def __init__(self, array: Array, provider: Provider) -> None:
        """Copy numbers to the device."""
        host = np.array(array, order="C")
        self.shape: tuple[int, ...] = host.shape
        self._dtype = host.dtype
        device = "cuda" if home_of(provider).name == CUDA else "cpu"
        self.value = onnx_runtime().OrtValue.ortvalue_from_numpy(host, device, 0)
        # On the CPU this is the tensor's own memory.
        self._host = host if device == "cpu" else None

    def copy(self) -> Array:
        """The numbers as they are now, in an array of their own."""
        return np.array(self.value.numpy() if self._host is None else self._host)

    def take(self, array: Array) -> None:
        """Take other numbers of the same shape."""
        if array.shape != self.shape:
            raise ValueError(f"a tensor of shape {self.shape} cannot take one of shape {array.shape}")
        if self._host is not None:
            np.copyto(self._host, array)
        else:
            self.value.update_inplace(np.array(array, self._dtype, order="C"))


class ResidentSession:
    """A session some of whose inputs and outputs stay on the device."""

    def __init__(
        self, session: Session, inputs: Mapping[str, Resident], outputs: Mapping[str, Resident] | None = None
    ) -> None:
        """Bind what stays.

        Args:
            inputs: by the name of the input; those that the model has not are ignored.
            outputs: what is written where. A tensor may be an input, too, if one node alone reads that, and the
                output is made of what this node gives: element by element, so that nothing is read after it is
                overwritten.
        """
        self._session = session
        self._inner = session.inner
        self._binding = self._inner.io_binding()
        self._asked = {item.name for item in self._inner.get_inputs()} - set(inputs)
        self._names = [item.name for item in self._inner.get_outputs()]
        self._kept = dict(outputs or {})
        self._inputs = {name: item for name, item in inputs.items() if name in session.inputs}
        for name, item in self._inputs.items():
            self._binding.bind_ortvalue_input(name, item.value)
        for name in self._names:
            self._bind_output(name)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model, and return the outputs that do not stay on the device.

        Args:
            feed: an array per input that does not stay on the device; others are ignored.
        """
        lacking = sorted(self._asked - feed.keys())
        if lacking:
            raise InferenceError(f"{self._session.name} has an input {lacking[0]!r} that the feed lacks")
        given = {name: to_ort(np.asarray(feed[name], order="C")) for name in self._asked}
        told = [name for name in self._names if name not in self._kept]
        try:
            for name, value in given.items():
                self._binding.bind_ortvalue_input(name, value)
            for name in told:
                # What the last run gave would be taken for a buffer that has the right shape.
                self._bind_output(name)
            self._binding.synchronize_inputs()
            self._inner.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            found = dict(zip(self._names, self._binding.get_outputs(), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no base class
            heed(error)
            raise InferenceError(f"{self._session.name} does not run: {sentence(error)}") from error
        return {name: np.array(from_ort(found[name])) for name in told}

    def _bind_output(self, name: str) -> None:
        if name in self._kept:
            self._binding.bind_ortvalue_output(name, self._kept[name].value)
        else:
            self._binding.bind_output(name, "cpu")
