"""AdamW without weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), as an ONNX graph.

It runs where the gradients are. Parameters and moments stay on that device and are written in place, each by a node
that is made of what their only reader gives.

Moments are kept as sums, without the factor 1 - beta of the paper, and what is one number for a step is put together
outside of the graph: of a step, which goes through memory once per operation, that leaves ten operations. With
M = m / (1 - beta_1) and V = v / (1 - beta_2),

    rate * m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)  =  size * M / (sqrt(V) + floor)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxheadprune.runtime import Array, Provider
from onnxheadprune.runtime.resident import Resident
from onnxheadprune.training.in_place import in_place

BETAS = (0.9, 0.99)
"""The second one forgets faster than usual: a recovery has few steps."""
EPSILON = 1e-8
STATES = ("parameter", "mean", "square")
"""What a step reads and writes anew."""
STEP = """
older_mean = Mul(mean, beta_1)
new_mean = Add(older_mean, gradient)
older_square = Mul(square, beta_2)
power = Mul(gradient, gradient)
new_square = Add(older_square, power)
root = Sqrt(new_square)
divisor = Add(root, floor)
direction = Div(new_mean, divisor)
way = Mul(direction, size)
new_parameter = Sub(parameter, way)
"""
"""For one tensor. A state is read by one node alone, and what replaces it is made of that node's output."""
SHARED: Mapping[str, float | None] = {"beta_1": BETAS[0], "beta_2": BETAS[1], "size": None, "floor": None}
"""Numbers that all tensors share; the last two are those of a step."""


class Adam:
    """Moments of the gradients of some tensors, which it changes in place.

    Attributes:
        means: first moments, as sums, per tensor.
        squares: second moments.
        steps: taken so far.
    """

    def __init__(
        self, parameters: Sequence[Resident], gradients: Sequence[Resident], provider: Provider
    ) -> None:
        """Starts with no moments.

        Args:
            parameters: what is trained, in float32.
            gradients: where the gradient of each is at every step, in its shape.
            provider: of the tensors.
        """
        self.means = [Resident(np.zeros(item.shape, np.float32), provider) for item in parameters]
        self.squares = [Resident(np.zeros(item.shape, np.float32), provider) for item in parameters]
        self.steps = 0
        states = dict(zip(STATES, (parameters, self.means, self.squares), strict=True))
        self._session = in_place(STEP, {**states, "gradient": gradients}, STATES, SHARED, provider)

    def step(self, rate: float) -> None:
        """One step."""
        self.steps += 1
        first, second = ((1 - beta) / (1 - beta**self.steps) for beta in BETAS)
        shrunk = math.sqrt(second)
        self._session.run({"size": _number(rate * first / shrunk), "floor": _number(EPSILON / shrunk)})

    def reset(self) -> None:
        """Forgets all steps."""
        for item in (*self.means, *self.squares):
            item.take(np.zeros(item.shape, np.float32))
        self.steps = 0

    def take(self, moments: Sequence[Array], steps: int) -> None:
        """Takes the moments of another training, means before squares, after so many steps."""
        for item, array in zip((*self.means, *self.squares), moments, strict=True):
            item.take(array)
        self.steps = steps


def _number(value: float) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)
