"""A cut that is to be recovered: what of it is trained, what for, and the gradients of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from onnxheadprune.choosing.gradients.differentiate import FIRST_OPSET, Gradient, differentiate
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.model.graph.operator import opset_of
from onnxheadprune.model.graph.restated import converted_to
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.inputs import Role
from onnxheadprune.training.loss import LOSS, Aim, Hidden, hidden_states, with_loss
from onnxheadprune.training.parameters import Parameters, parameters_of, without_constants


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
