"""Recovery: what is left of a model learns from the original, by gradients of the ONNX graph, in ONNX Runtime.

Knowledge distillation (Hinton, Vinyals and Dean 2015) of a model into its own pruned form, which starts from the
closed-form refit. Labels are never needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from onnxheadprune.choosing.activations.parts import require_main
from onnxheadprune.choosing.compensation.record import whole_of
from onnxheadprune.choosing.gradients.differentiate import FIRST_OPSET, Gradient, differentiate
from onnxheadprune.choosing.gradients.forward import widened
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.rows import most_rows
from onnxheadprune.display.spelling import many
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.submodel import submodel
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.model.graph.operator import opset_of
from onnxheadprune.model.graph.restated import converted_to
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.inputs import Role
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.training.batches import BATCH, PLAIN, Batches
from onnxheadprune.training.budget import Budget
from onnxheadprune.training.checkpoint import Checkpoint, beside
from onnxheadprune.training.loss import LOSS, Aim, Hidden, Taught, Teacher, hidden_states, with_loss
from onnxheadprune.training.neighbours import neighbours_of
from onnxheadprune.training.parameters import (
    Master,
    Parameter,
    Parameters,
    Student,
    parameters_of,
    without_constants,
)
from onnxheadprune.training.result import Recovery
from onnxheadprune.training.training import Plan, Training


@dataclass(frozen=True, eq=False)
class Subject:
    """A cut that is to be recovered."""

    original: GraphView  # an annotated view of the original
    main: MainOutput  # the output that counts
    pruned: ModelProto  # the pruned model, refitted where it is
    plan: PrunePlan | None  # how the original was cut, None where it is whole
    io: Interface  # what the cut leaves of inputs and outputs that it narrows
    # contents of the original's initializers that a refit changed, in the original's shapes
    start: Mapping[str, Array]


def differentiated(
    subject: Subject, data: Calibration, *, hidden: bool = True
) -> tuple[Parameters, Aim, Gradient]:
    """Parameters, aim and gradients of the loss, which with `hidden` is that of hidden states too."""
    pruned = view_of(subject.pruned)
    parameters = parameters_of(subject.original, pruned, subject.plan)
    aim = _aim(subject, pruned, data, hidden)
    names = [item.name for item in parameters.trained]
    model = with_loss(without_constants(_modern(subject.pruned), names), aim.parts)
    gradient = differentiate(model, LOSS, names)
    if not gradient.outputs:
        reasons = [*gradient.constant.values(), *parameters.held.values(), "it has no weights to train"]
        raise RefusedError(
            f"no gradient of {subject.main.name} reaches a weight, so the model cannot be recovered: {reasons[0]}"
        )
    return parameters, aim, gradient


def _modern(model: ModelProto) -> ModelProto:
    """The model at an opset whose operators have gradients."""
    if opset_of(model) >= FIRST_OPSET:
        return model
    try:
        return converted_to(model, FIRST_OPSET)
    except ValueError as error:
        raise RefusedError(
            f"gradients need opset {FIRST_OPSET}, and the model cannot be raised to it: {error}"
        ) from error


def _aim(subject: Subject, pruned: GraphView, data: Calibration, with_hidden: bool) -> Aim:
    main = subject.original.main.values[subject.main.name]
    masked = any(item.tells_padding and len(item.dims) == 2 for item in data.inputs)
    turned = any(item.batch_axis and item.role is not Role.POSITIONS for item in data.inputs)
    pooled = len(main.shape or ()) == 3 and masked and not turned and not subject.main.is_logits
    states = hidden_states(subject.original) if with_hidden else ()
    hidden = [state for state in states if _is_there(state, pruned)]
    return Aim(subject.main, len(main.shape or ()), pooled, hidden, data.inputs)


def _is_there(state: Hidden, pruned: GraphView) -> bool:
    """Return whether the pruned model has the state too, as wide as it was."""
    value = pruned.main.values.get(state.value.name)
    if value is None or value.shape is None or state.value.shape is None or value.holds_tensor:
        return False
    if len(value.shape) != len(state.value.shape):
        return False
    return all(value.shape[axis] == state.value.shape[axis] for axis in state.axes)


@dataclass(frozen=True, eq=False)
class Ready:
    """Everything that a training works with."""

    student: Student  # what learns
    teacher: Teacher  # what it learns from
    gradient: Gradient  # of the student's loss
    trained: Sequence[Parameter]  # the parameters of the student
    held: dict[str, str]  # names of tensors of the original that stay unchanged, with the reason


def ready(subject: Subject, learn: Calibration, provider: Provider) -> Ready:
    """Make the gradients, and load all sessions."""
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
    model = hydrated(submodel(wanted), view.sources)
    return Session(widened(model, frozenset()), provider, name="the original model", optimize=True)


LEAST = 16
"""Samples to learn from: one batch."""
HELD_OUT = 0.05
"""Part of the samples that neither the refit nor a step sees. More would be missed by both."""
MOST_JUDGES = 256
"""Samples that judge a training at most: what they scatter is less than what trainings differ in."""
STEP_BYTES = 2**27
"""Outputs of one step at most. The loss and its gradient hold several arrays of that size."""
MOST_SHOWN = 64
"""Samples of those that steps learn from on which it is looked how much better these become than others."""
JUDGES = 16
"""Samples that judge a training where a part of the data is fewer, as long as that takes no more than a fifth."""


def split_for_recovery(data: Calibration) -> tuple[Calibration, Calibration]:
    """A part that steps learn from and one that judges them."""
    share = min(round(data.count * HELD_OUT), MOST_JUDGES)
    return data.split(max(share, min(JUDGES, data.count // 5), 1) / data.count)


def require_recoverable(view: GraphView, main: MainOutput, data: Calibration) -> None:
    """Check whether a model can learn from data at all: asked before any long work."""
    learn, held = split_for_recovery(data)
    if learn.count < LEAST or learn.count + held.count > data.count:
        raise UsageError(
            f"{data.source} gives {many(data.count, data.unit)}, and a recovery"
            f" learns from {LEAST} or more and is judged by others;"
            f" give {LEAST + LEAST // 4} {data.unit}s or more, or leave the recovery out"
        )
    differentiated(
        Subject(view, main, hydrated(view.model, view.sources), None, AS_BEFORE, {}), data, hidden=False
    )


def recover(
    subject: Subject,
    learn: Calibration,
    held: Calibration,
    provider: Provider,
    call: PruneCall,
    budget: Budget,
    progress: Progress = silent,
) -> Recovery:
    """Train what is left of a model to give what the original gives.

    Args:
        held: data that no step sees, by which the learning rate and the best step are chosen.
    """
    made = ready(subject, learn, provider)
    student, teacher = made.student, made.teacher
    _require_variety(teacher, held)
    checkpoint = Checkpoint(_state_of(call), _key(subject, learn, provider, budget, call.seed))
    apart, shown = (Taught(teacher, part) for part in (held, learn.subset(min(held.count, MOST_SHOWN))))
    batches = Batches(
        learn,
        neighbours_of(subject.original, learn.inputs),
        min(BATCH, most_rows(learn.widest or 0, STEP_BYTES)),
    )
    plan = Plan(budget, call.seed, progress, budget.left)
    training = Training(student, teacher, batches, apart, shown, plan, checkpoint, held.count)
    training.run(call.resume)
    state = training.state
    return Recovery(
        stored=_written(subject, made.trained, student.copy()) if state.best else dict(subject.start),
        data=learn.fingerprint,
        samples=learn.total,
        used=state.samples,
        repeated=batches.is_again(max(state.epoch - 1, 0)),
        left_out=dict(batches.left_out),
        held_out=held.count,
        kind=batches.kind if batches.is_again(state.epoch - 1) else PLAIN,
        trained=tuple(item.original for item in made.trained),
        constant=made.held,
        epochs=state.step / batches.count,
        steps=state.step,
        rate=state.rate,
        trials=state.trials,
        learned=state.learned,
        curve=tuple(state.curve),
        best=state.best,
        stopped=training.stopped,
        resumed=training.resumed,
        seconds=round(state.seconds, 3),
        seed=call.seed,
        unlearned=state.unlearned,
        unit=learn.unit,
        planned=budget,
    )


def _require_variety(teacher: Teacher, data: Calibration) -> None:
    """Check whether the original gives different samples different outputs."""
    least, most = np.inf, -np.inf
    for feed in data.feeds:
        output = teacher.session.run(feed)[teacher.aim.main.name]
        rows = output.reshape(-1, output.shape[-1] if output.ndim > 1 else 1)
        least, most = np.minimum(least, rows.min(axis=0)), np.maximum(most, rows.max(axis=0))
    if np.max(most - least, initial=0.0) <= 1e-6 * np.max(
        np.maximum(np.abs(least), np.abs(most)), initial=0.0
    ):
        raise UsageError(
            f"{teacher.aim.main.name} is the same for all of {data.source}, so there is nothing to learn from it"
        )


def _written(subject: Subject, trained: Sequence[Parameter], masters: Sequence[Master]) -> dict[str, Array]:
    """The trained numbers in the original's tensors."""
    stored = dict(subject.start)
    values = subject.original.main.values
    for parameter, master in zip(trained, masters, strict=True):
        before = stored.get(parameter.original)
        if before is None:
            before = values[parameter.original].numbers()
        whole = whole_of(parameter.written(master), before, parameter.edit)
        assert whole is not None, f"{parameter.name} is no cut of {parameter.original}"
        stored[parameter.original] = whole
    return stored


def _state_of(call: PruneCall) -> Path | None:
    """The file with the state of a training until it is done; None where many are tried, or nothing is written."""
    return None if call.output is None or call.max_drift is not None else beside(call.output)


def _key(subject: Subject, data: Calibration, provider: Provider, budget: Budget, seed: int) -> str:
    """A short hash of everything that a training depends on."""
    digest = hashlib.sha256(subject.pruned.SerializeToString(deterministic=True))
    for value in subject.start.values():
        digest.update(np.ascontiguousarray(value).tobytes())
    digest.update(f"{data.fingerprint} {data.total} {provider.name} {budget} {seed}".encode())
    return digest.hexdigest()
