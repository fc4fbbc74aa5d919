"""AdamW without weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), in place and block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

BETAS = (0.9, 0.99)
"""The second one forgets faster than usual: a recovery has few steps."""
EPSILON = 1e-8
BLOCK = 2**15
"""Elements that are worked on at once. A dozen passes over them stay in a core's own cache, where whole tensors
would go through memory a dozen times."""


class Adam:
    """Moments of the gradients of some arrays, which it changes in place.

    Attributes:
        means: first moments, flat, per array.
        squares: second moments.
        steps: taken so far.
    """

    def __init__(self, arrays: Sequence[Vector]) -> None:
        """Starts with no moments.

        Args:
            arrays: what is trained; contiguous.
        """
        self.arrays = [array.reshape(-1) for array in arrays]
        assert all(np.shares_memory(flat, array) for flat, array in zip(self.arrays, arrays, strict=True))
        self.means = [np.zeros_like(flat) for flat in self.arrays]
        self.squares = [np.zeros_like(flat) for flat in self.arrays]
        self.steps = 0
        self._room = np.empty((2, BLOCK), np.float32)

    def step(self, gradients: Mapping[int, Vector], rate: float) -> None:
        """One step.

        Args:
            gradients: by the number of the array, in its shape.
            rate: the learning rate.
        """
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in BETAS)
        size, shrunk = rate / first, 1 / np.sqrt(second)
        for number, gradient in gradients.items():
            flat = np.ascontiguousarray(gradient, np.float32).reshape(-1)
            for start in range(0, flat.size, BLOCK):
                part = slice(start, start + BLOCK)
                self._block(number, part, flat[part], np.float32(size), np.float32(shrunk))

    def _block(
        self, number: int, part: slice, gradient: Vector, size: np.float32, shrunk: np.float32
    ) -> None:
        mean, square = self.means[number][part], self.squares[number][part]
        one, two = self._room[:, : gradient.size]
        np.multiply(gradient, np.float32(1 - BETAS[0]), out=one)
        mean *= np.float32(BETAS[0])
        mean += one
        np.multiply(gradient, gradient, out=one)
        one *= np.float32(1 - BETAS[1])
        square *= np.float32(BETAS[1])
        square += one
        np.sqrt(square, out=one)
        one *= shrunk
        one += np.float32(EPSILON)
        np.divide(mean, one, out=two)
        two *= size
        self.arrays[number][part] -= two
