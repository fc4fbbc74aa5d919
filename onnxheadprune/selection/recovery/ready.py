"""Student and teacher of a cut, ready to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.selection.activations.data import Calibration
from onnxheadprune.selection.activations.parts import part, require_main
from onnxheadprune.selection.gradients.differentiate import Gradient
from onnxheadprune.selection.gradients.widening import widened
from onnxheadprune.selection.recovery.parameters import Parameter
from onnxheadprune.selection.recovery.student import Student
from onnxheadprune.selection.recovery.subject import Subject, differentiated
from onnxheadprune.selection.recovery.targets import Aim, Teacher


@dataclass(frozen=True, eq=False)
class Ready:
    """Everything that a training works with.

    Attributes:
        student: what learns.
        teacher: what it learns from.
        gradient: of the student's loss.
        trained: the parameters of the student.
        held: names of tensors of the original that stay as they are, with the reason.
    """

    student: Student
    teacher: Teacher
    gradient: Gradient
    trained: Sequence[Parameter]
    held: dict[str, str]


def ready(subject: Subject, learn: Calibration, provider: Provider) -> Ready:
    """Makes the gradients, and loads all sessions.

    Args:
        subject: the cut.
        learn: data for the steps.
        provider: where to run.

    Raises:
        RefusedError: if no gradient of the main output reaches a weight.
    """
    parameters, aim, gradient = differentiated(subject, learn)
    teacher = Teacher(_original(subject, aim, provider), aim, learn.source)
    trained = [item for item in parameters.trained if item.name in gradient.outputs]
    constant = [item for item in parameters.trained if item.name not in gradient.outputs]
    student = Student(gradient, trained, constant, provider, subject.io)
    reasons = {item.original: gradient.constant.get(item.name, "no gradient reaches it") for item in constant}
    return Ready(student, teacher, gradient, trained, {**parameters.held, **reasons})


def _original(subject: Subject, aim: Aim, provider: Provider) -> Session:
    view = subject.original
    wanted = [view.main.values[subject.main.name], *(state.value for state in aim.hidden)]
    for value in wanted:
        require_main(value)
    model = hydrated(part(view, {}, [value.name for value in wanted]), view.sources)
    return Session(widened(model, frozenset()), provider, name="the original model", optimize=True)
