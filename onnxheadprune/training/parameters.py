"""The numbers that are trained: single-precision masters of what the pruned model stores, and the way back.

A recovery trains the pruned model. What it finds is written into the original's tensors, where the pruned model has a
part of each; rows of removed heads stay unchanged. So what comes out is a cut of a *recovered original*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.matrices import forward, levels_of
from onnxheadprune.attention.quantized import limits_of
from onnxheadprune.choosing.compensation.trainable import Trainable, trainable
from onnxheadprune.choosing.gradients.differentiate import Gradient
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.submodel import submodel
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.model.graph.operator import DEQUANTIZES
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.messages import copied
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed, narrowed
from onnxheadprune.training.loss import LOSS

Master = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Parameter:
    """One stored tensor of the pruned model."""

    name: str  # its name in the pruned model
    original: str  # its name in the original
    tensor: TensorProto  # as it is stored
    levels: Node | None  # the DequantizeLinear after it, None where it is a float
    edit: SliceTensor | None  # the cut that made it, None where it is whole

    def master(self) -> Master:
        """Its numbers, to be trained."""
        array = numpy_helper.to_array(self.tensor)
        if self.levels is not None:
            array = forward(self.levels, 0, array)
        return np.array(array, np.float32)

    def written(self, master: Master) -> Array:
        """The stored form of trained numbers: rounded, or quantized with the scales there are."""
        whole: Array = master
        if self.levels is not None:
            levels = levels_of(self.levels, 0, master.shape)
            assert levels is not None
            grid = replace(levels, limits=limits_of(self.tensor.data_type))
            whole = grid.levels(master.astype(np.float64))
        return np.ascontiguousarray(whole.astype(numpy_helper.to_array(self.tensor).dtype))


@dataclass(frozen=True, eq=False)
class Parameters:
    """The trained tensors, and why the others are not trained."""

    trained: Sequence[Parameter]  # the parameters, in graph order
    held: Mapping[str, str]  # names of tensors of the original that stay unchanged, with the reason


def parameters_of(original: GraphView, pruned: GraphView, plan: PrunePlan | None) -> Parameters:
    """The tensors of a pruned model that a recovery trains.

    Args:
        plan: how the second was made from the first, None where it is the same.
    """
    _refuse_blocks(pruned)
    lawful = trainable(original)
    planned = () if plan is None else plan.edits
    edits = [item.edit for item in planned if isinstance(item.edit, SliceTensor)]
    cuts = {edit.target: edit for edit in edits}
    copies = Counter(edit.name for edit in edits)
    trained, held = [], dict[str, str]()
    for name, way in trainable(pruned).items():
        edit = cuts.get(name)
        source = name if edit is None else edit.name
        if source not in lawful or way.stored.tensor is None:
            continue
        if copies[source] > 1 or (
            edit is not None and edit.target != edit.name and _is_there(source, pruned)
        ):
            held[source] = "several cuts of it are stored, which must stay alike"
            continue
        levels = _levels(way)
        if isinstance(levels, str):
            held[source] = levels
            continue
        trained.append(Parameter(name, source, way.stored.tensor, levels, edit))
    return Parameters(trained, held)


def _is_there(name: str, view: GraphView) -> bool:
    value = view.main.values.get(name)
    return value is not None and value.holds_tensor


def _levels(way: Trainable) -> Node | str | None:
    """The node that dequantizes a tensor, None where it is a float, or why it cannot be trained."""
    found = [step for step in way.steps if step in DEQUANTIZES]
    if not found and way.stored.elem_type == TensorProto.DOUBLE:
        return "it is stored in double precision, and training is in single precision"
    if not found:
        return None if way.stored.elem_type in FLOATS else "it is stored as whole numbers"
    if len(found) > 1 or way.steps[0] is not found[0] or found[0].domain or len(way.stored.consumers) > 1:
        return "it is quantized in a way that cannot be written back"
    return found[0]


def _refuse_blocks(view: GraphView) -> None:
    for node in view.main.nodes:
        blocks = int(node.attribute("block_size", 0) or 0)
        weights = [value for value in node.sources if value.is_constant]
        if blocks and weights and any(value.elem_type not in FLOATS for value in weights):
            raise RefusedError(
                f"the weights of {node.label} are packed in blocks of {blocks} with scales of their own, which cannot"
                " be trained; recover the model before it is quantized"
            )


def without_constants(model: ModelProto, names: Collection[str]) -> ModelProto:
    """The model with initializers in the place of Constants of these names."""
    made = copied(model)
    for node in model.graph.node:
        if set(node.output) & set(names):
            made.graph.node.remove(node)
            made.graph.initializer.extend(
                TensorProto.FromString(item.t.SerializeToString())
                for item in node.attribute
                if item.name == "value"
            )
            made.graph.initializer[-1].name = node.output[0]
    return made


class Student:
    """A pruned model in training: its parameters as inputs, its loss and their gradients as outputs.

    Attributes:
        parameters: what is trained; those that have a gradient.
        masters: their numbers in float32, changed in place by whoever trains.
    """

    def __init__(
        self,
        gradient: Gradient,
        parameters: Sequence[Parameter],
        constant: Sequence[Parameter],
        provider: Provider,
        io: Interface,
    ) -> None:
        """Make its sessions.

        Args:
            io: what the cut leaves of each input that it narrows: a cache in the data is as wide as the original's.
        """
        self._io = io
        self.parameters = tuple(parameters)
        self.masters: list[Master] = [np.ascontiguousarray(item.master()) for item in parameters]
        names = [item.name for item in (*parameters, *constant)]
        self._given = dict(zip(names, [*self.masters, *(item.master() for item in constant)], strict=True))
        self._gradients = [gradient.outputs[item.name] for item in parameters]
        loss = GraphView(gradient.model).main.values[LOSS]
        self._forward = Session(submodel([loss]), provider, name="the pruned model", optimize=True)
        name = "the gradient of the pruned model"
        self._backward = Session(gradient.model, provider, name=name, optimize=True)

    def loss(self, feed: Feed) -> float:
        """The loss of one batch, with the inputs of the loss among the feed."""
        return float(self._run(self._forward, feed)[LOSS])

    def slope(self, feed: Feed) -> tuple[float, list[Array]]:
        """The loss of one batch, and the gradient of each parameter."""
        outputs = self._run(self._backward, feed)
        return float(outputs[LOSS]), [outputs[name] for name in self._gradients]

    def _run(self, session: Session, feed: Feed) -> dict[str, Array]:
        return session.run({**narrowed(feed, self._io), **self._given})

    def copy(self) -> list[Master]:
        """The numbers as they are now."""
        return [master.copy() for master in self.masters]

    def take(self, numbers: Sequence[Master]) -> None:
        """Take other numbers, in place."""
        for master, new in zip(self.masters, numbers, strict=True):
            np.copyto(master, new)
