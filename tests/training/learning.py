"""An encoder that learns from another one, in parts: what tests of a training take hold of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune.choosing.gradients.differentiate import Gradient
from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.liveness.interface import AS_BEFORE
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Array, Provider
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.resident import Resident
from onnxheadprune.training.precision import FLOAT32, Candidate, Tensors, in_float16
from onnxheadprune.training.recover import Ready, ready
from onnxheadprune.training.subject import Subject
from tests import toys, toys_recovery
from tests.training.rounding import rounded

PROVIDER = Provider(CPU, "test")
Change = Callable[[ModelProto], None]


@dataclass(frozen=True, eq=False)
class Lesson:
    """A student and a teacher, with data."""

    made: Ready
    data: Calibration

    @property
    def gradient(self) -> Gradient:
        """Of the student."""
        return self.made.gradient

    def feed(self) -> Feed:
        """A batch with the inputs of the loss."""
        feed = self.data.feeds[0]
        return {**feed, **self.made.teacher.targets(feed)}

    def tensors(self) -> Tensors:
        """The student's numbers once more, with room for gradients."""
        masters = {item.name: Resident(item.master(), PROVIDER) for item in self.made.trained}
        room = {
            self.gradient.outputs[name]: Resident(np.zeros(item.shape, np.float32), PROVIDER)
            for name, item in masters.items()
        }
        return Tensors(masters, room)

    @functools.cached_property
    def candidates(self) -> list[Candidate]:
        """Float32, and what float16 makes of it."""
        return candidates_of(self.gradient)

    def masters(self) -> list[Array]:
        """The numbers of the student."""
        return self.made.student.copy()


def candidates_of(gradient: Gradient, provider: Provider = PROVIDER) -> list[Candidate]:
    """What CUDA has, on a provider that has no float16: products are rounded to it."""
    return [Candidate(FLOAT32, gradient.model), rounded(in_float16(gradient))]


def lesson(changed: Change = lambda model: None) -> Lesson:
    """A lesson for an encoder with somewhat other numbers than the original.

    Args:
        changed: changes the student's further.
    """
    original, student = toys_recovery.encoder(layers=1), toys_recovery.encoder(layers=1)
    random = np.random.default_rng(3)
    for name in [tensor.name for tensor in student.graph.initializer if "weight" in tensor.name]:
        array = toys.get_initializer(student, name)
        noise = 0.1 * random.standard_normal(array.shape)
        toys.set_initializer(student, name, array + noise.astype(np.float32))
    changed(student)
    view = view_of(original)
    data = calibration_data(toys_recovery.sentences(), view)
    subject = Subject(view, MainOutput("last_hidden_state", False), student, None, AS_BEFORE, {})
    return Lesson(ready(subject, data, PROVIDER), data)


@contextmanager
def float16_on_cpu() -> Iterator[None]:
    """Trainings round products to float16, however long that takes, where it agrees with float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxheadprune.training.student.candidates_of", candidates_of)
        patch.setattr("onnxheadprune.training.precision.GAIN", float("inf"))
        yield
