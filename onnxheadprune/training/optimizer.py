"""AdamW without weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), on tensors that are changed in place.

Moments are kept as sums, without the factor 1 - beta of the paper. With M = m / (1 - beta_1) and V = v / (1 - beta_2),

    rate * m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)  =  size * M / (sqrt(V) + floor)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxheadprune.runtime import Array
from onnxheadprune.training.parameters import Master

BETAS = (0.9, 0.99)
"""The second one forgets faster than usual: a recovery has few steps."""
EPSILON = 1e-8
BLOCK = 2**16
"""Numbers that a step works on at a time: with their moments they stay in the cache."""


class Adam:
    """Moments of the gradients of some tensors.

    Attributes:
        means: first moments, as sums, per tensor.
        squares: second moments.
        steps: taken so far.
    """

    def __init__(self, parameters: Sequence[Master]) -> None:
        """Start with no moments; the parameters are contiguous."""
        self._parameters = parameters
        self.means = [np.zeros_like(item) for item in parameters]
        self.squares = [np.zeros_like(item) for item in parameters]
        self.steps = 0
        self._work = np.empty(BLOCK, np.float32)

    def step(self, gradients: Sequence[Array], rate: float) -> None:
        """One step, by the gradient of each parameter."""
        self.steps += 1
        first, second = ((1 - beta) / (1 - beta**self.steps) for beta in BETAS)
        shrunk = math.sqrt(second)
        size, floor = np.float32(rate * first / shrunk), np.float32(EPSILON / shrunk)
        for arrays in zip(self._parameters, gradients, self.means, self.squares, strict=True):
            flat = [array.reshape(-1) for array in arrays]
            for start in range(0, flat[0].size, BLOCK):
                parameter, gradient, mean, square = (array[start : start + BLOCK] for array in flat)
                work = self._work[: len(parameter)]
                mean *= BETAS[0]
                mean += gradient
                square *= BETAS[1]
                square += np.multiply(gradient, gradient, out=work)
                np.sqrt(square, out=work)
                work += floor
                np.divide(mean, work, out=work)
                work *= size
                parameter -= work

    def reset(self) -> None:
        """Forget all steps."""
        for array in (*self.means, *self.squares):
            array.fill(0)
        self.steps = 0

    def take(self, moments: Sequence[Array], steps: int) -> None:
        """Take the moments of another training, means before squares, after so many steps."""
        for array, other in zip((*self.means, *self.squares), moments, strict=True):
            np.copyto(array, other)
        self.steps = steps


STRENGTH = 0.9
"""The pull of a whole training at its peak rate, as a share of the way back: the same for every length of it."""
EVERY = 10
"""Steps after which it is made good, all at once."""


class Pull:
    """Weights, and where they are drawn to."""

    def __init__(self, parameters: Sequence[Master]) -> None:
        """Take the weights as they are now for the start."""
        self._parameters, self._starts = parameters, [item.copy() for item in parameters]
        self._due = 0.0

    def add(self, share: float, step: int) -> None:
        """Accumulate the pull of a step, and apply the sum every `EVERY` steps."""
        self._due += share
        if step % EVERY == 0:
            self.settle()

    def settle(self) -> None:
        """Make good what is due."""
        if self._due:
            keep = math.exp(-self._due)
            for parameter, start in zip(self._parameters, self._starts, strict=True):
                parameter *= keep
                parameter += (1 - keep) * start
            self._due = 0.0
