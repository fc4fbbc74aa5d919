"""The pruned model as something that learns: its parameters as inputs, its loss and their gradients as outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxheadprune.edit.extract import needed_nodes
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds import Feed
from onnxheadprune.runtime.feeds.narrowing import narrowed
from onnxheadprune.selection.gradients import Gradient
from onnxheadprune.selection.recovery.losses import LOSS
from onnxheadprune.selection.recovery.parameters import Master, Parameter


@dataclass(frozen=True)
class Loss:
    """The loss of a batch and its gradients, by the number of the parameter."""

    value: float
    gradients: Mapping[int, Array]


class Student:
    """A pruned model in training.

    Attributes:
        parameters: what is trained; those that have a gradient.
        masters: their numbers, changed in place by whoever trains.
    """

    def __init__(
        self,
        gradient: Gradient,
        parameters: Sequence[Parameter],
        constant: Sequence[Parameter],
        provider: Provider,
        io: Interface,
    ) -> None:
        """Makes its sessions.

        Args:
            gradient: of the loss.
            parameters: those that have one.
            constant: those that have none, which the model takes as inputs too.
            provider: where to run.
            io: what the cut leaves of each input that it narrows: a cache in the data is as wide as the original's.
        """
        self._io = io
        self._constant = {item.name: item.master() for item in constant}
        self.parameters = tuple(parameters)
        self.masters: list[Master] = [parameter.master() for parameter in parameters]
        self._outputs = {number: gradient.outputs[item.name] for number, item in enumerate(parameters)}
        self._training = Session(
            gradient.model, provider, name="the gradient of the pruned model", optimize=True
        )
        self._forward = Session(_loss_alone(gradient.model), provider, name="the pruned model", optimize=True)

    def _fed(self, feed: Feed) -> dict[str, Array]:
        """A batch with the parameters, as this model takes them."""
        given = zip(self.parameters, self.masters, strict=True)
        masters = {parameter.name: master for parameter, master in given}
        return {**narrowed(feed, self._io), **self._constant, **masters}

    def loss(self, feed: Feed) -> float:
        """The loss of one batch, with the inputs of the loss among the feed."""
        return float(self._forward.run(self._fed(feed))[LOSS])

    def loss_and_gradients(self, feed: Feed) -> Loss:
        """The same, and where it falls."""
        outputs = self._training.run(self._fed(feed))
        gradients = {number: outputs[name] for number, name in self._outputs.items()}
        return Loss(float(outputs[LOSS]), gradients)

    def copy(self) -> list[Master]:
        """The numbers as they are now."""
        return [master.copy() for master in self.masters]

    def take(self, numbers: Sequence[Master]) -> None:
        """Takes other numbers, in place."""
        for master, new in zip(self.masters, numbers, strict=True):
            np.copyto(master, new)


def _loss_alone(model: ModelProto) -> ModelProto:
    """The part of a model that the loss needs."""
    nodes, needed = needed_nodes(model.graph, [LOSS])
    made = ModelProto()
    made.ir_version = model.ir_version
    made.opset_import.extend(model.opset_import)
    made.graph.name = model.graph.name
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(item for item in model.graph.initializer if item.name in needed)
    made.graph.input.extend(info for info in model.graph.input if info.name in needed)
    made.graph.output.extend(info for info in model.graph.output if info.name == LOSS)
    return made
