"""The pruned model as something that learns: its parameters as inputs, its loss and their gradients as outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxheadprune.choosing.gradients.differentiate import Gradient
from onnxheadprune.edit.submodel import submodel
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed, narrowed
from onnxheadprune.runtime.resident import Resident, ResidentSession
from onnxheadprune.training.losses import LOSS
from onnxheadprune.training.parameters import Master, Parameter
from onnxheadprune.training.precision import Slope, Slopes, Tensors, candidates_of, decided


class Student:
    """A pruned model in training. Its numbers and their gradients stay on the device.

    Attributes:
        parameters: what is trained; those that have a gradient.
        masters: their numbers in float32, changed in place by whoever trains.
        gradients: of the last batch, in the same order.
        provider: where it runs.
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
        self._io, self.provider = io, provider
        self.parameters = tuple(parameters)
        held = {item.name: Resident(item.master(), provider) for item in constant}
        masters = {item.name: Resident(item.master(), provider) for item in parameters}
        gradients = {
            gradient.outputs[name]: Resident(np.zeros(item.shape, np.float32), provider)
            for name, item in masters.items()
        }
        self.masters, self.gradients = list(masters.values()), list(gradients.values())
        self._tensors = Tensors({**held, **masters}, gradients)
        self._candidates = candidates_of(gradient, provider)
        self._slopes: Slopes | None = None
        loss = GraphView(gradient.model).main.values[LOSS]
        forward = Session(submodel([loss]), provider, name="the pruned model", optimize=True)
        self._forward = ResidentSession(forward, self._tensors.inputs)

    @property
    def precision(self) -> str:
        """The type of the operands of products in steps, as far as it is decided."""
        return self._slopes.candidate.name if self._slopes is not None else self._candidates[0].name

    @property
    def scale(self) -> float:
        """The loss scale, 1 without one."""
        return 1.0 if self._slopes is None else self._slopes.scale

    def choose(self, feed: Feed) -> None:
        """Decide in which precision steps are made, by trial on a batch with the inputs of the loss."""
        given = narrowed(feed, self._io)
        self._slopes = decided(self._candidates, self.provider, self._tensors, given)

    def resume(self, precision: str, scale: float) -> None:
        """Go on as another training did."""
        known = {item.name: item for item in self._candidates}
        self._slopes = Slopes(known[precision], self.provider, self._tensors)
        self._slopes.scale = scale

    def loss(self, feed: Feed) -> float:
        """The loss of one batch in float32, with the inputs of the loss among the feed."""
        return float(self._forward.run(narrowed(feed, self._io))[LOSS])

    def slope(self, feed: Feed) -> Slope:
        """The loss of one batch as a step sees it, and where it falls, in `gradients`.

        A batch that goes beyond the range of a narrower type is computed again in float32, and so are all after it.
        """
        if self._slopes is None:
            self.choose(feed)
        assert self._slopes is not None
        given = narrowed(feed, self._io)
        found = self._slopes.at(given)
        if self._slopes.candidate is self._candidates[0]:
            return found
        if math.isfinite(found.loss) and not self._slopes.exhausted:
            return found
        exact = Slopes(self._candidates[0], self.provider, self._tensors)
        found = exact.at(given)
        if found.usable:
            self._slopes = exact
        return found

    def copy(self) -> list[Master]:
        """The numbers as they are now."""
        return [master.copy() for master in self.masters]

    def take(self, numbers: Sequence[Master]) -> None:
        """Take other numbers, in place."""
        for master, new in zip(self.masters, numbers, strict=True):
            master.take(new)
