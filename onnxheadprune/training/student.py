"""The pruned model as something that learns: its parameters as inputs, its loss and their gradients as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxheadprune.choosing.gradients.differentiate import Gradient
from onnxheadprune.edit.submodel import submodel
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed, narrowed
from onnxheadprune.training.loss import LOSS
from onnxheadprune.training.parameters import Master, Parameter


class Student:
    """A pruned model in training.

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
